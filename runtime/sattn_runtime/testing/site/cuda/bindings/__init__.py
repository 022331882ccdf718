"""There from cuda-python 12.6 on."""

from __future__ import annotations

from sattn_runtime.testing.device import current

__version__ = current().config.cuda_python

if tuple(int(part) for part in __version__.split(".")) < (12, 6):
    raise ModuleNotFoundError("No module named 'cuda.bindings'", name="cuda.bindings")
