"""What is asked of the running interpreter: in a child, so that nothing broken takes the doctor with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sattn_edge.engine_store import EngineStore
from sattn_edge.errors import UnavailableError
from sattn_runtime.doctor import examine, probe_live
from sattn_runtime.doctor.tree import Tree
from tests.helpers_device import use_fake_device


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module `tensorrt` that comes before any other."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> Path:
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").write_text(code)
        return tmp_path / "tensorrt" / "__init__.py"

    return write


def test_a_module_that_imports(module):
    path = module("print('noise', end='')\n__version__ = '10.3.0'\n")
    answer = probe_live.ask("tensorrt")
    assert (answer.version, answer.where, answer.error) == ("10.3.0", str(path), None)
    assert "tensorrt" not in sys.modules


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import no_such_thing", "there is no module 'no_such_thing'"),
        ("raise ImportError('libnvinfer.so.10: cannot open\\nmore')", "libnvinfer.so.10: cannot open"),
        ("raise SystemExit('licence')", "licence"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os; os.kill(os.getpid(), 11)", "ended the interpreter (signal 11)"),
        ("import os; os._exit(3)", "ended the interpreter (exit code 3)"),
    ],
)
def test_a_module_that_does_not_import(module, code, error):
    module(code)
    assert probe_live.ask("tensorrt").error == error


def test_a_module_that_never_ends(module):
    module("import time; time.sleep(60)")
    assert probe_live.ask("tensorrt", timeout_s=1.0).error == "gave no answer in 1 s"


def test_a_folder_of_that_name_is_no_module(module, tmp_path):
    module("").unlink()
    assert probe_live.ask("tensorrt").error == "'tensorrt' is a folder without a module in it"


def test_the_child_sees_what_this_interpreter_sees(tmp_path, monkeypatch):
    """A file in the current folder is not on the path of a command, and must not be on the child's."""
    (tmp_path / "tensorrt.py").write_text("__version__ = 'of the current folder'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert probe_live.ask("tensorrt").version != "of the current folder"
    monkeypatch.syspath_prepend(str(tmp_path))  # the control
    assert probe_live.ask("tensorrt").version == "of the current folder"


def test_the_store_of_this_user(tmp_path, monkeypatch):
    root = tmp_path / "a" / "engines"
    monkeypatch.setenv("SATTN_EDGE_STORE", str(root))
    found = probe_live.store_folder()
    assert (found.path, found.exists, found.writable, found.others_write) == (str(root), False, True, False)
    assert not (tmp_path / "a").exists()  # looking made nothing
    root.mkdir(parents=True)
    for mode, others in ((0o700, False), (0o755, False), (0o770, True), (0o702, True)):
        root.chmod(mode)
        found = probe_live.store_folder()
        assert (found.exists, found.ours, found.others_write) == (True, True, others)
        assert refused_by_the_store(root) == others
    root.chmod(0o700)
    assert found.free_bytes is not None
    assert found.free_bytes > 0


def refused_by_the_store(root: Path) -> bool:
    try:
        EngineStore(root).prepare()
    except UnavailableError as error:
        return "others can write" in str(error)
    return False


def test_what_lies_in_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path))
    plan = tmp_path / ("0" * 64) / "plan"
    plan.parent.mkdir(mode=0o700)
    plan.touch(0o600)
    assert probe_live.store_folder().open_inside == ()
    plan.chmod(0o620)
    assert probe_live.store_folder().open_inside == (str(plan),)
    plan.parent.chmod(0o707)
    assert probe_live.store_folder().open_inside == (str(plan.parent), str(plan))


def test_a_store_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setenv("SATTN_EDGE_STORE", str(tmp_path))
    if os.getuid() == 0:
        os.chown(tmp_path, 12345, -1)  # root's own folder is trusted by everyone
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert probe_live.store_folder().ours is False
    monkeypatch.setattr(os, "getuid", lambda: owner)  # the control
    assert probe_live.store_folder().ours is True


def test_no_home(monkeypatch):
    monkeypatch.setattr(probe_live, "default_store", lambda: type("Store", (), {"root": None})())
    assert probe_live.store_folder().path is None


def test_this_interpreter():
    found = probe_live.live_probe(Tree("/"))
    assert found.live
    assert found.python is not None
    assert found.python.version == sys.version_info[:3]
    assert found.python.venv == (sys.prefix != sys.base_prefix)
    assert {"onnxruntime", "numpy"} <= set(found.distributions)
    assert found.gpu is not None
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/nvhost-gpu").exists():
        assert found.gpu.error
    assert "tensorrt" not in sys.modules


def test_the_gpu_of_a_device_that_answers(monkeypatch):
    use_fake_device(monkeypatch, gpu="Fake Orin", compute_capability="8.7", driver=12060, runtime=12060)
    answer = probe_live.ask("cuda")
    assert (answer.name, answer.compute_capability, answer.error) == ("Fake Orin", "8.7", None)
    assert answer.driver is not None
    assert answer.driver.startswith("12.6")
    assert answer.adapter


def test_the_gpu_of_a_device_that_does_not(monkeypatch):
    use_fake_device(monkeypatch, visible=False)
    answer = probe_live.ask("cuda")
    assert answer.code == "cudaErrorNoDevice"
    assert "cudaErrorNoDevice" in (answer.error or "")
    assert answer.name is None


def test_tensorrt_of_a_fake_device_is_found(monkeypatch):
    """Nothing of the real machine is needed for the whole way from the import to the finding."""
    use_fake_device(monkeypatch, release="10.3.0")
    answer = probe_live.ask("tensorrt")
    assert (answer.version, answer.error) == ("10.3.0", None)
    diagnosis = examine("/", "tensorrt")
    assert {f.topic: f.found for f in diagnosis.findings}["TensorRT"] == "10.3.0"
    if diagnosis.board.driver is None:  # a machine without a driver of its own
        assert diagnosis.can_run("tensorrt")
