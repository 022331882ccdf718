"""What suites of MQTT share: a broker, a publisher, and sources that are let go of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import SourceOptions
from tests.sattn_runtime.sources.helpers_mqtt import CONTRACT, OPTIONS, Broker, Publisher


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker")
    yield made
    made.stop()


@pytest.fixture
def publisher(broker: Broker) -> Iterator[Publisher]:
    made = Publisher(broker)
    yield made
    made.close()


@pytest.fixture
def opened(broker: Broker) -> Iterator[Callable[..., Any]]:
    sources: list[Any] = []

    def open_(query: str = "?client=test", options: SourceOptions = OPTIONS) -> Any:
        sources.append(open_source(broker.uri(query), CONTRACT, options))
        return sources[-1]

    yield open_
    for source in sources:
        source.close()
        source.close()
