"""NVIDIA's bindings: what each release can do, as facts tell it, and what is said where they can't be loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sattn_edge.errors import UnavailableError
from sattn_runtime.tensorrt.bindings import Features, errors_of, load, logger
from tests.sattn_runtime.tensorrt.helpers_tensorrt import RELEASES, RTX_RELEASE, fake

# The compatibility table of the releases, written down by hand. None of it is asked of a version number.
GENERATION = {
    "8": Features(strongly_typed=False, precision_flags=True, progress=False, architectures=False, timing_cache=True),
    "10": Features(strongly_typed=True, precision_flags=True, progress=True, architectures=False, timing_cache=True),
    "11": Features(strongly_typed=True, precision_flags=False, progress=True, architectures=False, timing_cache=True),
}
RTX = Features(strongly_typed=True, precision_flags=False, progress=True, architectures=True, timing_cache=False)


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_release_can_do(monkeypatch, release):
    fake(monkeypatch, release=release)
    found = load("tensorrt")
    assert (found.backend, found.release, found.name) == ("tensorrt", release, f"TensorRT {release}")
    assert found.features == GENERATION[release.partition(".")[0]]


def test_what_rtx_can_do(monkeypatch):
    fake(monkeypatch)
    found = load("tensorrt-rtx")
    assert (found.backend, found.name) == ("tensorrt-rtx", f"TensorRT-RTX {RTX_RELEASE}")
    assert found.features == RTX


def test_what_the_real_rtx_can_do():
    trt = pytest.importorskip("tensorrt_rtx")
    found = load("tensorrt-rtx")
    assert (found.release, found.features) == (trt.__version__, RTX)


def test_control_the_generations_differ():
    assert len({*GENERATION.values(), RTX}) == 4


@pytest.mark.parametrize(("backend", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_a_module_that_is_not_there(monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableError, match=f"backend '{backend}': is not installed") as caught:
        load(backend)
    assert caught.value.exit_code == 6
    assert caught.value.todo


BROKEN = {
    "a library": ("raise ImportError('libnvinfer.so:\\n not found')", r"can't be loaded \(libnvinfer.so: not found\)"),
    "a file": ("raise OSError('file too short')", r"can't be loaded \(file too short\)"),
    "a part": ("import tensorrt_bindings_gone", r"can't be loaded \(No module named 'tensorrt_bindings_gone'\)"),
    "another module": ("__version__ = '1'", r"can't be loaded \(.*has no attribute 'IBuilderConfig'\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_module_that_can_not_be_loaded(monkeypatch, tmp_path, case):
    code, words = BROKEN[case]
    (tmp_path / "tensorrt.py").write_text(code + "\n")
    alone(monkeypatch, tmp_path)
    with pytest.raises(UnavailableError, match=f"backend 'tensorrt': {words}; run sattn-doctor") as caught:
        load("tensorrt")
    assert caught.value.exit_code == 6


def test_a_folder_of_that_name_is_not_the_bindings(monkeypatch, tmp_path):
    """A folder of engines, say, beside a script: Python takes it for a package without a word."""
    (tmp_path / "tensorrt").mkdir()
    alone(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UnavailableError, match="can't be loaded"):
        load("tensorrt")


def test_an_error_that_is_none_of_the_loader_is_not_hidden(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ZeroDivisionError\n")
    alone(monkeypatch, tmp_path)
    with pytest.raises(ZeroDivisionError):
        load("tensorrt")


def alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A folder first on the path, and none of its modules loaded, before and after the test."""
    fake(monkeypatch)
    monkeypatch.syspath_prepend(str(folder))


def test_one_logger_for_a_process(monkeypatch):
    fake(monkeypatch)
    bindings = load("tensorrt")
    log = logger(bindings)
    assert logger(load("tensorrt")) is log
    builder, runtime = bindings.module.Builder(log), bindings.module.Runtime(logger(load("tensorrt")))
    assert builder is not None
    assert runtime is not None
    assert [text for _, text in log.messages if "differs" in text] == []


def test_control_a_second_logger_is_told_that_it_is_ignored(monkeypatch):
    fake(monkeypatch)
    bindings = load("tensorrt")
    bindings.module.Builder(logger(bindings))
    other = type(logger(bindings))()
    bindings.module.Runtime(other)
    assert "differs from one already registered" in other.messages[0][1]


def test_a_log_keeps_severity_and_text_and_forgets_what_is_long_past(monkeypatch):
    fake(monkeypatch)
    bindings = load("tensorrt")
    severities, log = bindings.module.ILogger.Severity, logger(bindings)
    log.log(severities.WARNING, "first")
    assert log.messages == [("WARNING", "first")]
    for i in range(20_000):
        log.log(severities.VERBOSE, str(i))
    assert len(log.messages) == 20_000
    assert (log.messages[0], log.messages[-1]) == (("VERBOSE", "0"), ("VERBOSE", "19999"))


def test_the_last_errors_in_one_line():
    said = [
        ("ERROR", "old"),
        ("ERROR", "one\n two "),
        ("WARNING", "mind"),
        ("INTERNAL_ERROR", "three"),
        ("ERROR", "three"),
        ("INFO", "so"),
    ]
    assert errors_of(said) == "one two; three"
    assert errors_of(said, most=1) == "three"
    assert errors_of([("WARNING", "mind")]) == ""
