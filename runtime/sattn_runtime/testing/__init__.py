"""Stand-ins for tests: an engine without a network, a source without a sensor, a device without a GPU.

    from sattn_runtime import Stream
    from sattn_runtime.testing import FakeEngine

    engine = FakeEngine(contract, record=True)
    decisions = Stream(engine).push(samples)
    assert decisions[0].label == contract.labels[2]     # of a signal whose mean is near 2
    assert (engine.windows[0] == samples[:contract.window]).all()

They ship with the package, so that whoever writes a source or a sink of their own tests it with what we test ours.

The device (`sattn_runtime.testing.device`) is found by the names of the real packages: with the folder `fake_site()`
first in PYTHONPATH, `import tensorrt`, `from cuda.bindings import runtime` and `import pycuda.driver` give the fakes,
in this process and in those it starts. What they pretend to be is in the variable SATTN_FAKE_DEVICE.
"""

from __future__ import annotations

from pathlib import Path

from sattn_runtime.testing.engine import FakeEngine, Logits
from sattn_runtime.testing.sources import ListSource

__all__ = ["FakeEngine", "ListSource", "Logits", "fake_site"]


def fake_site() -> Path:
    """The folder whose modules have the names of the real `tensorrt`, `tensorrt_rtx`, `cuda` and `pycuda`."""
    return Path(__file__).resolve().parent / "site"
