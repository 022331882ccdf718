"""In place of cuda-python: one of the version that the fake device says, or none."""

from __future__ import annotations

from sattn_runtime.testing.device import current

if not current().config.cuda_python:
    raise ModuleNotFoundError("No module named 'cuda'", name="cuda")

__version__ = current().config.cuda_python
