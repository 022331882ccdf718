"""Every suite here runs over every adapter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sattn_runtime.cuda import Cuda, open_cuda
from tests.helpers_device import use_fake_device
from tests.sattn_runtime.cuda.helpers_adapters import ADAPTERS, Open


@pytest.fixture(params=list(ADAPTERS))
def opened(request, monkeypatch) -> Iterator[Open]:
    """Opens the adapter on a fake device of this configuration; whatever a test left open is closed."""
    adapters = []

    def open_one(**config) -> Cuda:
        use_fake_device(monkeypatch, **ADAPTERS[request.param], **config)
        adapters.append(open_cuda())
        return adapters[-1]

    yield open_one
    for adapter in adapters:
        adapter.close()


@pytest.fixture
def cuda(opened) -> Cuda:
    """On the device as it is without being told anything."""
    return opened()
