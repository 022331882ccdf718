"""Putting a fake engine, and a fake clock, under a whole run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from sattn_edge.contract import Contract
from sattn_edge.engine import BACKENDS, Engine

BACKEND = "fake_backend"


def add_backend(monkeypatch: pytest.MonkeyPatch, make: Callable[[Contract], Engine]) -> None:
    """Makes `--backend fake_backend` open what `make` gives for the model file's contract."""
    module = ModuleType(BACKEND)
    module.__spec__ = ModuleSpec(BACKEND, None)
    module.open_engine = lambda model, options: make(model.contract)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, BACKEND, module)
    monkeypatch.setitem(BACKENDS, BACKEND, f"{BACKEND}:open_engine")


class FakeClock:
    """Time that passes only when somebody sleeps. Stands in for `time` in every module of ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 1_000_000_000_000
        fakes: dict[Any, Any] = {
            time.monotonic_ns: self.monotonic_ns,
            time.perf_counter_ns: self.monotonic_ns,
            time.sleep: self.sleep,
        }
        for name, module in list(sys.modules.items()):
            if not name.startswith(("sattn_runtime", "sattn_edge")) or module is None:
                continue
            for key, value in list(vars(module).items()):
                if callable(value) and isinstance(value, type(time.sleep)) and value in fakes:
                    monkeypatch.setattr(module, key, fakes[value])

    def monotonic_ns(self) -> int:
        """What it is."""
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        """Lets so much time pass."""
        self.now_ns += round(seconds * 1e9)
