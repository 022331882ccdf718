"""The adapters as the suites see them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from sattn_runtime.cuda import Cuda

ADAPTERS = {
    "13": {"cuda_python": "13.0.1", "driver": 13000, "runtime": 13000},
    "12": {"cuda_python": "12.6.2", "driver": 12060, "runtime": 12060},
    "cudart": {"cuda_python": "12.2.1", "driver": 12020, "runtime": 12020},
    "pycuda": {"cuda_python": "", "pycuda": "2026.1", "driver": 12060, "runtime": 12060},
}
X = np.arange(12, dtype=np.float32).reshape(3, 4)

Open = Callable[..., Cuda]
with_graphs = pytest.mark.parametrize("opened", ["13", "12", "cudart"], indirect=True)
without_graphs = pytest.mark.parametrize("opened", ["pycuda"], indirect=True)


def elsewhere(work: Callable[[], object]) -> list[BaseException]:
    """What work raises in another thread, called `reader`."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            raised.append(error)

    thread = threading.Thread(target=run, name="reader")
    thread.start()
    thread.join()
    return raised
