"""Putting the fake device under a test: as the packages it stands in for, in this process and in those it starts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sattn_runtime.testing import device, fake_site

PACKAGES = ("cuda", "pycuda", "tensorrt", "tensorrt_rtx")


def device_environment(**config: Any) -> dict[str, str]:
    """The variables a subprocess needs to meet the fake device: this process' own, with two changed."""
    return {**os.environ, **_variables(config)}


def use_fake_device(monkeypatch: pytest.MonkeyPatch, **config: Any) -> Path | None:
    """Makes `import tensorrt`, `cuda.bindings.runtime` and `pycuda.driver` give fakes until the test ends.

    Args:
        monkeypatch: undoes it, with the real packages where they were loaded.
        config: fields of `FakeConfig`. What it is told again replaces all that was told before.

    Returns:
        The file that gets a line for every call, where `log` names one.
    """
    for name, value in _variables(config).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(fake_site()))
    for name in {*_fakes(), *(name for name in sys.modules if name.partition(".")[0] in PACKAGES)}:
        # Set and then deleted: monkeypatch puts back what was there, and drops what a test loads where nothing was.
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
    device.reset()
    return Path(config["log"]) if config.get("log") else None


def calls(log: Path) -> list[str]:
    """Every call the fakes got, in order."""
    return log.read_text().splitlines() if log.exists() else []


def _variables(config: Mapping[str, Any]) -> dict[str, str]:
    values = {name: str(value) if isinstance(value, Path) else value for name, value in config.items()}
    rest = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(fake_site())]
    return {device.VARIABLE: json.dumps(values), "PYTHONPATH": os.pathsep.join([str(fake_site()), *rest])}


def _fakes() -> set[str]:
    """The names of all modules in the folder."""
    site = fake_site()
    found = (path.relative_to(site).with_suffix("").parts for path in site.rglob("*.py"))
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in found} - {""}
