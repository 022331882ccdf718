"""Each release has its own names in the fake, and no others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sattn_runtime.testing import device, fake_site
from sattn_runtime.testing.fake_tensorrt import CLASSES
from tests.sattn_runtime.testing.helpers_fake_tensorrt import RELEASES, Process, api


def public(kind: type) -> set[str]:
    """Names of a class, of an enumeration those of its members."""
    names = set(getattr(kind, "__members__", None) or dir(kind))
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize(("module", "release"), RELEASES)
def test_without_a_file_of_names_nothing_is_offered_that_the_release_does_not_have(monkeypatch, module, release):
    listed = json.loads(api().read_text())[f"{module} {release}"]
    offered = vars(Process(monkeypatch, module, release=release).trt)
    kinds = {name: kind for name, kind in offered.items() if isinstance(kind, type) and name != "Dims"}
    assert len(kinds) > 20
    assert not set(kinds) - set(listed)
    assert {
        name: public(kind) - set(listed[name]) for name, kind in kinds.items() if public(kind) - set(listed[name])
    } == {}


@pytest.mark.parametrize(("module", "release"), RELEASES)
def test_whatever_the_fake_has_written_and_the_release_has_is_offered(monkeypatch, module, release):
    listed = json.loads(api().read_text())[f"{module} {release}"]
    trt = Process(monkeypatch, module, release=release).trt
    for written in CLASSES:
        assert hasattr(trt, written.__name__) == (written.__name__ in listed)
        if written.__name__ in listed:
            wanted = public(written) & set(listed[written.__name__])
            assert wanted <= public(getattr(trt, written.__name__)), written.__name__


@pytest.mark.parametrize(("module", "release"), RELEASES)
def test_a_file_of_names_changes_nothing_where_it_agrees(monkeypatch, module, release):
    free = {name: public(kind) for name, kind in classes(Process(monkeypatch, module, release=release))}
    bound = {
        name: public(kind) for name, kind in classes(Process(monkeypatch, module, release=release, api=str(api())))
    }
    assert free == bound


def classes(process: Process) -> list[tuple[str, type]]:
    return [(name, kind) for name, kind in vars(process.trt).items() if isinstance(kind, type)]


def test_a_file_of_names_takes_away_what_it_does_not_list(monkeypatch, tmp_path):
    listed = json.loads(api().read_text())["tensorrt 10.3.0"]
    listed["Builder"].remove("platform_has_fast_fp16")
    listed["BuilderFlag"].remove("TF32")
    del listed["EngineInspector"]
    (tmp_path / "api.json").write_text(json.dumps({"tensorrt 10.3.0": listed}))
    trt = Process(monkeypatch, api=str(tmp_path / "api.json")).trt
    assert not hasattr(trt, "EngineInspector")
    with pytest.raises(AttributeError, match="TF32"):
        _ = trt.BuilderFlag.TF32
    process = Process(monkeypatch)
    assert process.trt.Builder(process.log).platform_has_fast_fp16
    process = Process(monkeypatch, api=str(tmp_path / "api.json"))
    with pytest.raises(AttributeError, match="platform_has_fast_fp16"):
        _ = process.trt.Builder(process.log).platform_has_fast_fp16


def test_a_release_the_file_does_not_know_is_no_module(monkeypatch):
    with pytest.raises(ImportError, match=r"nothing on tensorrt 9\.0\.0"):
        Process(monkeypatch, release="9.0.0", api=str(api()))


def test_an_attribute_that_is_not_there_can_not_be_set(monkeypatch):
    old, new = Process(monkeypatch, release="8.6.1"), Process(monkeypatch, release="10.3.0")
    new.config().progress_monitor = None
    with pytest.raises(AttributeError, match="has no attribute 'progress_monitor'"):
        old.config().progress_monitor = None
    with pytest.raises(AttributeError, match="has no attribute 'max_workspace_size'"):
        new.config().max_workspace_size = 1


def test_a_flag_has_another_value_in_another_release(monkeypatch):
    """What hard-codes 1 << 1 finds it out here."""
    values = {}
    for release in ("10.3.0", "11.4.0.106"):
        process = Process(monkeypatch, release=release)
        values[release] = int(process.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = process.trt.Builder(process.log).create_network(1 << 1)
        assert (network is None) == (release == "11.4.0.106")
    assert values == {"10.3.0": 1, "11.4.0.106": 0}


def test_a_member_is_no_integer(monkeypatch):
    flag = Process(monkeypatch).trt.BuilderFlag.TF32
    assert int(flag) == 6
    assert flag != 6
    with pytest.raises(TypeError):
        _ = 1 << flag


def test_arguments_are_of_the_right_class(monkeypatch):
    process = Process(monkeypatch)
    config = process.config()
    with pytest.raises(TypeError, match="a BuilderFlag is wanted, got 1"):
        config.set_flag(1)
    with pytest.raises(TypeError, match="a ProfilingVerbosity is wanted"):
        config.profiling_verbosity = 2
    with pytest.raises(TypeError, match="No constructor defined"):
        process.trt.IBuilderConfig()
    with pytest.raises(TypeError, match="a logger is wanted"):
        process.trt.Builder(None)


def test_a_logger_must_start_its_base(monkeypatch):
    process = Process(monkeypatch)

    class Log(process.trt.ILogger):
        def __init__(self):
            self.messages = []

    with pytest.raises(TypeError, match=r"__init__\(\) must be called"):
        process.trt.Builder(Log())


def test_its_own_logger_prints_what_is_bad_enough(monkeypatch, capsys):
    process = Process(monkeypatch)
    logger = process.trt.Logger(process.trt.Logger.ERROR)
    builder = process.trt.Builder(logger)
    assert builder.create_network(1 << 9) is None
    assert capsys.readouterr().err.startswith("[TRT] [E] IBuilder::createNetworkV2")
    logger.log(process.trt.Logger.WARNING, "hush")
    assert capsys.readouterr().err == ""


def test_both_modules_are_found_by_their_names(monkeypatch):
    monkeypatch.setenv(device.VARIABLE, json.dumps({"release": "8.6.1"}))
    monkeypatch.setenv("PYTHONPATH", str(fake_site()))
    code = "import tensorrt, tensorrt_rtx; print(tensorrt.__version__, tensorrt_rtx.__version__, tensorrt.__file__)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["8.6.1", "1.7.1.116", str(fake_site() / "tensorrt" / "__init__.py")]
