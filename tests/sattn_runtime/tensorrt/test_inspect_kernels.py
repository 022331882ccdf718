"""`sattn-inspect --kernels`: on the fake for its words and choices, with NVIDIA's own compiler for what it is for."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sattn_edge.engine_manifest import Request
from sattn_edge.errors import QualityError
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import load_model_file
from sattn_runtime.tensorrt import inspect_kernels as module
from sattn_runtime.tensorrt.inspect_kernels import inspect_kernels
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_model import WIDE, save_model
from tests.helpers_run import Cli, Done, command_line, environment
from tests.sattn_runtime.tensorrt.helpers_tensorrt import RELEASES, RTX_RELEASE, fake, save

PRECISIONS = ("fp32", "fp16", "int8")
DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four-block network at 128 x 9, with a calibration table for the products of all blocks but the first."""
    folder = tmp_path_factory.mktemp("wide")
    made = save_model(folder, window=128, modal=9, classes=6, widths=WIDE, name="har.onnx")
    convs = [node.name for node in load_model_file(made).proto.graph.node if node.op_type == "Conv"]
    assert len(convs) == 4
    return calibrate_by_hand(made, int8=convs[1:])


def kernels(cli: Cli, path: Path, *args: str) -> Done:
    return cli("sattn-inspect", path, "--kernels", *args)


class TestFake:
    """Words, choices and numbers that do not depend on what a compiler fuses."""

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_as_json(self, cli, path, monkeypatch, precision):
        fake(monkeypatch, visible=False)
        done = kernels(cli, path, "--arch", "sm86", "--precision", precision, "--attention", "gemm", "--json")
        assert done.code == 0
        report = done.json
        assert (report["backend"], report["compiler"], report["arch"]) == ("tensorrt-rtx", RTX_RELEASE, "sm86")
        assert (report["attention"], report["precision"], report["batch"]) == ("gemm", precision, 1)
        assert isinstance(report["kernels"], int)
        assert report["kernels"] == len(report["layers"]) > 0
        assert len(report["blocks"]) == 2
        assert all(isinstance(block["fused"], bool) for block in report["blocks"])
        for layer in report["layers"]:
            assert {"name", "type", "dtype"} <= layer.keys()
            assert isinstance(layer["name"], str)
        assert DTYPES[precision] in {layer["dtype"] for layer in report["layers"]}
        assert report["contradiction"] is None

    def test_as_a_page(self, cli, path, monkeypatch):
        fake(monkeypatch, visible=False)
        done = kernels(cli, path, "--arch", "SM89", "--attention", "taps")
        assert done.code == 0
        lines = done.out.splitlines()
        assert lines[0] == f"small.onnx by TensorRT-RTX {RTX_RELEASE}, sm89: taps, fp32, batch 1"
        assert any(line.startswith("kernels: ") for line in lines)
        assert any(line.startswith("attention blocks: 2, ") for line in lines)
        assert done.err == "building taps, fp32\n"  # a pipe gets lines

    def test_auto_takes_the_form_of_fewest_kernels(self, cli, path, monkeypatch):
        fake(monkeypatch, visible=False)
        by_form = {form: self.count(cli, path, form) for form in FORMS}
        best = kernels(cli, path, "--arch", "sm86", "--json").json
        assert len(set(by_form.values())) > 1  # else any form would do
        assert best["kernels"] == min(by_form.values()) == by_form[best["attention"]]
        # The control: with the counts turned round another form is taken, so it is the count that decides.
        real, most = module.parse_layers, max(by_form.values())
        monkeypatch.setattr(module, "parse_layers", lambda text: real(text)[: most + 1 - len(real(text))])
        assert by_form[kernels(cli, path, "--arch", "sm86", "--json").json["attention"]] == most

    def count(self, cli: Cli, path: Path, form: str) -> int:
        report = kernels(cli, path, "--arch", "sm86", "--attention", form, "--json").json
        assert report["attention"] == form
        return int(report["kernels"])

    def test_auto_goes_on_where_a_form_can_not_be_compiled(self, cli, path, monkeypatch):
        fake(monkeypatch, visible=False, faults={"build": "none", "only_form": ".rows"})
        best = kernels(cli, path, "--arch", "sm86", "--json")
        assert best.code == 0
        assert best.json["attention"] != "gemm"
        assert kernels(cli, path, "--arch", "sm86", "--attention", "gemm").code == 4

    def test_auto_with_no_form_that_compiles(self, cli, path, monkeypatch):
        fake(monkeypatch, visible=False, faults={"build": "none"})
        done = kernels(cli, path, "--arch", "sm86", "--json")
        assert done.code == 4
        assert done.json["error"]["kind"] == "QualityError"
        assert "makes no engine of it" in done.err

    def test_a_range_of_batches_and_a_batch(self, cli, path, monkeypatch):
        fake(monkeypatch, visible=False)
        ranged = kernels(cli, path, "--arch", "sm86", "--attention", "gemm", "--batch-range", "1,2,4", "--json").json
        assert (ranged["batch"], ranged["shape_kernels"]) == ([1, 2, 4], 1)
        fixed = kernels(cli, path, "--arch", "sm86", "--attention", "gemm", "--batch", "4", "--json").json
        assert (fixed["batch"], fixed["shape_kernels"]) == (4, 0)
        assert ranged["kernels"] == fixed["kernels"] + 1

    @pytest.mark.parametrize(("release", "precision"), [*zip(RELEASES, 2 * PRECISIONS[::-1], strict=True)])
    def test_on_a_device_tensorrt_itself_is_asked(self, cli, path, monkeypatch, release, precision):
        """Before 11 its log has no list that can be read, but the engine has, on its GPU."""
        fake(monkeypatch, release=release)
        args = ("--backend", "tensorrt", "--attention", "gemm", "--precision", precision, "--json")
        report = kernels(cli, path, *args).json
        assert (report["backend"], report["compiler"], report["arch"]) == ("tensorrt", release, None)
        assert report["kernels"] == len(report["layers"])
        assert report["contradiction"] is None
        assert DTYPES[precision] in report["products"].values()

    def test_where_there_is_no_device_to_ask(self, cli, path, monkeypatch):
        fake(monkeypatch, visible=False)
        done = kernels(cli, path, "--backend", "tensorrt", "--attention", "gemm")
        assert done.code == 6
        assert "there is no GPU here" in done.err

    def test_the_library_can_do_it_too(self, path, monkeypatch):
        fake(monkeypatch, visible=False, faults={"build": "none", "only_form": ".rows"})
        model = load_model_file(path)
        report = inspect_kernels(model, Request("tensorrt-rtx", "fp32", "taps", arch="sm86"))
        assert len(report.layers) > 0
        with pytest.raises(QualityError):
            inspect_kernels(model, Request("tensorrt-rtx", "fp32", "gemm", arch="sm86"))


ARCH = ("--arch", "sm86")
REFUSED = {
    "no architecture": (2, (), "--kernels: got no --arch; the architecture to compile for; add --arch sm86"),
    "unknown architecture": (2, ("--arch", "sm87"), "--arch: got 'sm87'; TensorRT-RTX 1.7.1.116 compiles for sm75, s"),
    "no architecture at all": (2, ("--arch", "none"), "--arch: got 'none'; TensorRT-RTX"),
    "both modes": (2, (*ARCH, "--lower", "tensorrt"), "--kernels: got --lower too; one of the two"),
    "output": (2, (*ARCH, "-o", "x.onnx"), "-o: says how to lower; it goes with --lower"),
    "backend without kernels": (2, ("--backend", "onnxruntime"), "--backend: got 'onnxruntime'; kernels are for tens"),
    "unknown backend": (2, (*ARCH, "--backend", "tensort"), "--backend: got 'tensort'"),
    "architecture for a device": (2, (*ARCH, "--backend", "tensorrt"), "--arch: got 'sm86'; tensorrt builds for the"),
    "precision": (2, (*ARCH, "--precision", "fp61"), "--precision: got 'fp61'; did you mean 'fp16'?"),
    "best": (2, (*ARCH, "--precision", "best"), "--precision: got 'best'"),
    "form": (2, (*ARCH, "--attention", "tap"), "--attention: got 'tap'; did you mean 'taps'?"),
    "batch and range": (2, (*ARCH, "--batch", "2", "--batch-range", "1,2,4"), "--batch: got --batch-range too"),
    "no batch": (2, (*ARCH, "--batch", "0"), "--batch: got 0; 1 to 4096"),
    "range in disorder": (2, (*ARCH, "--batch-range", "4,2,1"), "--batch-range: got 4,2,1"),
    "range of two": (2, (*ARCH, "--batch-range", "1,2"), "--batch-range: got '1,2'; three numbers"),
    "range of none": (2, (*ARCH, "--batch-range", "0,1,2"), "--batch-range: got 0,1,2"),
}
WITHOUT_KERNELS = {
    "arch": (ARCH, "--arch: says how to compile; it goes with --kernels; add --kernels --arch sm86"),
    "backend": (("--backend", "tensorrt-rtx"), "--backend: says how to compile; it goes with --kernels"),
    "range": (("--batch-range", "1,2,4"), "--batch-range: says how to compile; it goes with --kernels"),
    "precision": (("--precision", "fp16"), "--precision: says how to lower; it goes with --lower or --kernels"),
    "arch with lower": (("--lower", "tensorrt", *ARCH), "--arch: says how to compile; it goes with --kernels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use(cli, path, monkeypatch, case):
    fake(monkeypatch, visible=False)
    code, args, text = REFUSED[case]
    done = kernels(cli, path, *args)
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    as_json = kernels(cli, path, *args, "--json")
    assert (as_json.code, as_json.json["exit_code"]) == (code, code)
    assert text in as_json.json["error"]["message"]


@pytest.mark.parametrize("case", WITHOUT_KERNELS)
def test_options_without_what_they_go_with(cli, path, case):
    args, text = WITHOUT_KERNELS[case]
    done = cli("sattn-inspect", path, *args)
    assert (done.code, done.out) == (2, "")
    assert text in done.err


def test_int8_without_a_table(cli, tmp_path, monkeypatch):
    fake(monkeypatch, visible=False)
    done = kernels(cli, save(tmp_path, calibrated=False), *ARCH, "--precision", "int8")
    assert (done.code, done.out) == (3, "")
    assert "carries no calibration table" in done.err


@pytest.mark.parametrize("package", ["tensorrt_rtx", "tensorrt"])
def test_a_compiler_that_is_not_installed(cli, path, monkeypatch, package):
    fake(monkeypatch)
    monkeypatch.setitem(sys.modules, package, None)
    found = ("--backend", "tensorrt") if package == "tensorrt" else ARCH
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == package else object())
    done = kernels(cli, path, *found)
    assert (done.code, done.out) == (6, "")
    assert "is not installed" in done.err
    assert ("python3-libnvinfer" in done.err) == (package == "tensorrt")


def test_no_such_file(cli, tmp_path, monkeypatch):
    fake(monkeypatch, visible=False)
    done = kernels(cli, tmp_path / "nothing.onnx", *ARCH)
    assert (done.code, done.out) == (3, "")


class TestReal:
    """The figures: four blocks at 128 x 9, fixed batch."""

    @pytest.fixture(autouse=True)
    def _compiler(self):
        pytest.importorskip("tensorrt_rtx")

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_at_most_eight_kernels_with_every_block_in_one(self, cli, wide, precision):
        report = kernels(cli, wide, *ARCH, "--precision", precision, "--json").json
        assert report["kernels"] <= 8
        assert [block["fused"] for block in report["blocks"]] == [True] * 4
        assert report["contradiction"] is None

    def test_int8_products_of_all_blocks_but_the_first_read_int8(self, cli, wide):
        report = kernels(cli, wide, *ARCH, "--precision", "int8", "--attention", "gemm", "--json").json
        assert list(report["products"].values()).count("int8") == 3

    def test_control_in_the_source_s_own_form_it_is_twice_as_many_and_apart(self, cli, wide):
        report = kernels(cli, wide, *ARCH, "--precision", "fp16", "--attention", "reference", "--json").json
        assert report["kernels"] >= 16
        assert not all(block["fused"] for block in report["blocks"])

    def test_one_more_for_sizes_where_the_batch_is_free(self, cli, wide):
        report = kernels(cli, wide, *ARCH, "--attention", "gemm", "--batch-range", "1,4,8", "--json").json
        assert (report["kernels"] <= 9, report["shape_kernels"]) == (True, 1)

    def test_on_a_terminal_there_is_a_bar_and_stdout_is_the_report(self, path):
        bar, seen, code = on_terminal(path)
        assert code == 0
        assert bar.startswith("small.onnx by TensorRT-RTX")
        assert "\x1b[" in seen
        assert "still at work" not in seen
        assert "building" not in seen


def on_terminal(path: Path) -> tuple[str, str, int]:
    """stdout, a pipe, stderr, a terminal, and the exit code of a whole command."""
    master, slave = pty.openpty()
    argv = command_line("sattn-inspect", path, "--kernels", *ARCH, "--attention", "gemm")
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, env={**environment(), "TERM": "xterm"}
    )
    os.close(slave)
    out, _ = child.communicate(timeout=60)
    seen = b""
    try:
        while more := os.read(master, 65536):
            seen += more
    except OSError:  # how Linux says that the other end of a terminal is closed
        pass
    finally:
        os.close(master)
    return out.decode(), seen.decode(), child.returncode
