"""In place of pycuda: one of the version that the fake device says, or none."""

from __future__ import annotations

from sattn_runtime.testing.device import current

VERSION_TEXT = current().config.pycuda

if not VERSION_TEXT:
    raise ModuleNotFoundError("No module named 'pycuda'", name="pycuda")
