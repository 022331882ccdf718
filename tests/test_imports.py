"""What each import loads, in fresh interpreters: a device must not pay for what it does not use."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
from pathlib import Path

import pytest

from sattn_edge.cli import COMMANDS
from tests.helpers_data import ROOT
from tests.helpers_model import save_model
from tests.helpers_run import run_code

HEAVY = (
    "numpy",
    "msgspec",
    "onnx",
    "onnxruntime",
    "torch",
    "onnxscript",
    "typer",
    "rich",
    "hypothesis",
    "scipy",
    "prometheus_client",
)
OPTIONAL = ("paho", "serial", "cobs", "pylsl", "mcap")  # of the live sources, each loaded by its own
PACKAGES = {
    "sattn_edge": ROOT / "sattn_edge",
    "sattn_export": ROOT / "export" / "sattn_export",
    "sattn_calibration": ROOT / "calibration" / "sattn_calibration",
    "sattn_runtime": ROOT / "runtime" / "sattn_runtime",
}
HAS_TORCH = importlib.util.find_spec("torch") is not None


def loaded(code: str) -> set[str]:
    """Which of HEAVY are loaded after this code ran, whatever it printed and however it exited."""
    wrapped = f"""
import contextlib, io, json, sys
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    exec({code!r})
print(json.dumps(sorted({{m.partition(".")[0] for m in sys.modules}} & set({(*HEAVY, *OPTIONAL)!r}))))
"""
    return set(json.loads(run_code(wrapped)))


@pytest.mark.parametrize("package", ["sattn_edge", "sattn_runtime"])
def test_a_package_loads_numpy_at_most(package):
    assert loaded(f"import {package}") <= {"numpy", "msgspec"}


def test_the_core_itself_loads_nothing():
    assert loaded("import sattn_edge") == set()


def test_the_modules_of_the_sources_load_none_of_their_packages():
    names = ("frames", "lines", "lsl", "mcap_file", "mcap_records", "mqtt", "payload", "serial_port", "stdin_csv")
    code = "".join(f"import sattn_runtime.sources.{name}\n" for name in names)
    assert not loaded(code) & set(OPTIONAL)


def test_the_measure_sees_what_is_loaded():
    """The control."""
    assert loaded("import onnxruntime, typer") >= {"onnxruntime", "typer", "numpy"}


def test_the_help_of_the_umbrella_loads_not_even_numpy():
    found = loaded("from sattn_edge.cli import main; main(['--help'])")
    assert "typer" in found
    assert not found & {"numpy", "msgspec", "onnx", "onnxruntime", "torch"}


@pytest.mark.parametrize("command", ["run", "verify", "inspect", "build", "bench", "doctor"])
def test_the_help_of_a_runtime_command_loads_no_runtime(command):
    module, function = COMMANDS[command][0].split(":")
    found = loaded(f"from {module} import {function} as main; main(['--help'])")
    assert "typer" in found
    assert not found & {"onnx", "onnxruntime", "torch"}


@pytest.mark.skipif(not HAS_TORCH, reason="needs torch to be there and not loaded")
def test_an_engine_loads_no_torch(tmp_path):
    path = str(save_model(tmp_path))
    found = loaded(f"from sattn_runtime import load_engine; load_engine({path!r}).close()")
    assert found >= {"numpy", "onnx", "onnxruntime"}
    assert not found & {"torch", "onnxscript", "rich"}


def test_an_engine_loads_no_command_line(tmp_path):
    path = str(save_model(tmp_path))
    found = loaded(f"from sattn_runtime import load_engine; load_engine({path!r}).close()")
    assert not found & {"torch", "typer", "rich"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports(package):
    walked = pkgutil.walk_packages([str(PACKAGES[package])], f"{package}.")
    names = [m.name for m in walked if not m.name.endswith("__main__")]
    files = [p for p in PACKAGES[package].rglob("*.py") if p.name not in ("__init__.py", "__main__.py")]
    assert {n.rpartition(".")[2] for n in names} >= {p.stem for p in files}
    done = json.loads(
        run_code(f"""
import importlib, json
missing = {{}}
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
print(json.dumps(missing))
""")
    )
    if HAS_TORCH:
        assert done == {}
    assert set(done.values()) <= {"torch", "onnxscript", "safetensors", "matplotlib", "jinja2"}
    if package in ("sattn_calibration", "sattn_runtime"):
        assert set(done.values()) <= {"matplotlib", "jinja2"}  # the page of a report, an extra


@pytest.mark.parametrize("name", COMMANDS)
def test_the_umbrellas_table_leads_somewhere(name):
    module, function = COMMANDS[name][0].split(":")
    if module.startswith("sattn_export"):
        pytest.importorskip("torch")
    assert callable(getattr(importlib.import_module(module), function))


def test_public_names_are_where_they_are_said_to_be():
    code = "import sattn_edge; print([getattr(sattn_edge, n) is not None for n in sattn_edge.__all__])"
    assert set(run_code(code).strip("[]\n").split(", ")) == {"True"}
    code = "import sattn_edge\ntry: sattn_edge.nothing\nexcept AttributeError as e: print(e)"
    assert run_code(code) == "module 'sattn_edge' has no attribute 'nothing'\n"


def test_every_package_says_that_it_is_typed():
    assert all((Path(folder) / "py.typed").exists() for folder in PACKAGES.values())
