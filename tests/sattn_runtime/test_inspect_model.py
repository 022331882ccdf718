from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from sattn_edge.contract import Channel, Contract
from sattn_edge.incremental.lower_step import lower_step
from sattn_edge.lowering import Target
from sattn_edge.model_file import load_model_file, model_bytes, parse_model_file
from sattn_runtime import inspect_model
from tests.helpers_data import make_contract
from tests.helpers_model import WIDE, golden_of, model_file, save_model, save_watch_model
from tests.helpers_onnx import make_model
from tests.sattn_runtime.test_verify import add_to_class_1, change_weights


def test_the_page(cli, tmp_path):
    done = cli("sattn-inspect", save_watch_model(tmp_path))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert re.fullmatch(r"watch\.onnx: [\d,]+ bytes, format 1", lines[0])
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines[2:16])
    assert rows["window"] == "200 samples (4 s) of 6 channels"
    assert rows["hop"] == "100 samples (2 s)"
    assert rows["labels"] == "PEN, ABD, FEL, IR, ER, TRAP, ROW"
    assert rows["checkpoint"] == "random weights"
    assert rows["golden"] == "6 windows, from watch_tiny.npz"
    assert rows["graph"].endswith("(as exported)")
    assert rows["calibration"] == "none: runs in fp32"
    # 51 and 28 columns of 100 and 50, and 4 sums of 8 maps for 7 classes.
    ratio = (51 * 4 * 3 + 28 * 8 * 12 + 4 * 7 * 8) / (100 * 4 * 3 + 50 * 8 * 12)
    assert rows["incremental"].startswith(f"stateful: {ratio:.2f} of a window's multiply-adds, ")
    assert [line.split() for line in lines if line.startswith("  ax")] == [["ax", "g", "-", "-", "-", "-"]]
    assert lines[-4:] == [
        "attention blocks: 2",
        "  name              pooling  kernel  maps  steps",
        "  block0.attention  mean     3x1        4    100",
        "  block1.attention  mean     3x1        8     50",
    ]


def test_as_json(cli, tmp_path):
    path = save_model(tmp_path)
    report = cli("sattn-inspect", path, "--json").json
    found = load_model_file(path)
    assert report["bytes"] == path.stat().st_size
    assert (report["file_digest"], report["graph_digest"]) == (found.file_digest, found.graph_digest)
    assert report["graph_unchanged"] is True
    assert report["contract"]["channel"] == [{"name": "c0"}, {"name": "c1"}]
    assert report["golden"]["windows"] == 6
    assert report["golden"]["synthetic"] is True
    assert report["blocks"][0] == {
        "name": "block0.attention",
        "pooling": "mean",
        "kernel": [3, 1],
        "pads": [1, 0, 1, 0],
        "maps": 4,
        "steps": 8,
    }
    weights = 4 * 3 + 4 + 3 + 1 + 4 * 4 + 8 * 4 * 3 + 8 + 3 + 1 + 8 * 4 + 3 * 16 + 3 + 2 * 2
    assert report["parameters"] == weights
    assert report["opset"] == {"ai.onnx": 17, "sattn_edge": 1}


@pytest.fixture
def reference(tmp_path) -> Path:
    """The reference network on windows of 128 x 9, every 16."""
    return save_model(tmp_path, window=128, modal=9, hop=16, classes=6, widths=WIDE)


def test_plans_are_counted(cli, reference):
    found = cli("sattn-inspect", reference, "--json").json["incremental"]
    # By hand: columns of each convolution, times 9 channels, and the sums of 512 maps for 6 classes.
    per_column = [64 * 3, 128 * 64 * 3, 256 * 128 * 3, 512 * 256 * 3]
    whole, short, kept = (
        9 * sum(n * work for n, work in zip(columns, per_column, strict=True))
        for columns in ([64, 32, 16, 8], [48, 24, 12, 6], [9, 7, 5, 4])
    )
    short, kept = short + 3 * 9 * 512 * 6, kept + 5 * 9 * 512 * 6
    assert (found["hop"], found["phases"], found["stride"], found["full_multiply_adds"]) == (16, 1, 16, whole)
    assert (found["reasons"], found["node"]) == ({}, None)
    edges, stateful = found["plans"]["edges"], found["plans"]["stateful"]
    assert (edges["samples"], edges["multiply_adds"], edges["ratio"]) == (96, short, short / whole)
    assert (stateful["samples"], stateful["multiply_adds"], stateful["ratio"]) == (16, kept, kept / whole)
    # Head, steady group and tail of the two steps before, 6 numbers each.
    assert edges["state_bytes"] == 2 * 3 * 6 * 4


@pytest.mark.parametrize(("hop", "phases"), [(16, 1), (24, 2), (8, 2)])
@pytest.mark.parametrize("plan", ["edges", "stateful"])
def test_state_is_what_the_step_graphs_of_all_phases_keep(cli, tmp_path, hop, phases, plan):
    path = save_model(tmp_path, window=512, modal=2, widths=(4, 8, 8, 8), hop=16)
    found = cli("sattn-inspect", path, "--hop", hop, "--json").json["incremental"]
    step = lower_step(load_model_file(path).proto, hop, plan, Target("onnxruntime", "gemm", "fp32"))
    assert found["phases"] == phases
    assert found["plans"][plan]["state_bytes"] == phases * sum(state.begin.nbytes for state in step.states)


def test_plans_on_the_page(cli, reference):
    lines = cli("sattn-inspect", reference, "--hop", 64).out.splitlines()
    at = lines.index("windows every 64 samples (stride 16, 1 phase):")
    assert lines[at + 1].split() == ["plan", "samples", "multiply-adds", "ratio", "state", "KiB"]
    assert lines[at + 2].split()[:5] == ["edges", "-", "-", "-", "-"]
    # Hop, three columns at the start and two at the end.
    assert lines[at + 2].endswith(
        f"its short window needs {64 + 5 * 16} samples, and a window less one step of 64 has 64"
    )
    assert lines[at + 3].split()[:2] == ["stateful", "64"]
    assert lines[at + 4] == ""


@pytest.mark.parametrize(
    ("window", "hop", "words"),
    [
        (128, 128, "windows of 128 samples every 128 do not overlap"),
        (90, 25, "only windows 100 samples apart share columns, and a window has 90"),
    ],
)
def test_why_there_are_no_plans_is_on_the_page(cli, tmp_path, window, hop, words):
    path = save_model(tmp_path, window=window, hop=hop)
    done = cli("sattn-inspect", path)
    assert done.code == 0
    (line,) = (line for line in done.out.splitlines() if line.startswith("incremental"))
    assert line.startswith("incremental    none: ")
    assert words in line
    assert "windows every" not in done.out
    found = cli("sattn-inspect", path, "--json").json["incremental"]
    assert found["plans"] == {}
    assert words in found["reasons"]["edges"]


def test_the_node_that_is_not_local_in_time_is_named(cli, tmp_path):
    path = save_model(tmp_path)
    proto = onnx.load(path)
    node = next(n for n in proto.graph.node if n.op_type == "Relu")
    node.CopyFrom(onnx.helper.make_node("Softmax", node.input, node.output, name="over_time", axis=2))
    path.write_bytes(proto.SerializeToString())
    done = cli("sattn-inspect", path)
    assert done.code == 0
    assert "incremental    none: over_time (Softmax): Softmax is neither followed along time nor the mean" in done.out
    found = cli("sattn-inspect", path, "--json").json["incremental"]
    assert (found["node"], found["plans"], found["phases"]) == ("over_time (Softmax)", {}, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hop", 0], "--hop: got 0; a number of samples, 1 or more"),
        (["--hop", 8, "--lower", "tensorrt"], "--hop: got --lower too"),
        (["--hop", 8, "--kernels"], "--hop: got --kernels too"),
    ],
)
def test_hops_that_are_refused(cli, tmp_path, options, words):
    done = cli("sattn-inspect", save_model(tmp_path), *options)
    assert done.code == 2
    assert words in done.err


def test_a_changed_graph_is_told(cli, tmp_path):
    path = change_weights(save_model(tmp_path), "fc.bias", add_to_class_1(1e-3))
    done = cli("sattn-inspect", path)
    assert done.code == 0
    assert "(CHANGED since export)" in done.out
    assert cli("sattn-inspect", path, "--json").json["graph_unchanged"] is False


@pytest.mark.parametrize("pooling", ["mean", "max", "mean+max"])
def test_every_pooling_is_named(pooling):
    contract = make_contract(("a", "b", "c"), window=32, labels=("p", "q", "r", "s"))
    proto = make_model(pooling=pooling)
    import numpy as np

    golden = golden_of(proto, np.zeros((1, 1, 32, 3), np.float32))
    data = model_bytes(proto, contract, golden, statistics={"n": 3}, provenance={})
    found = parse_model_file(data, "m")
    assert [block["pooling"] for block in inspect_model.blocks(found)] == [pooling] * 2
    assert "statistics     of the data it was exported with" in inspect_model.as_text(found)


def test_a_network_without_attention():
    contract = make_contract(("a", "b"), window=8)
    proto = onnx.load_from_string(model_file(contract))
    inner = [n for n in proto.graph.node if n.domain]
    for node in inner:
        for other in proto.graph.node:
            for i, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[i] = node.input[0]
        proto.graph.node.remove(node)
    unused = {name for node in inner for name in node.input[1:]}
    for tensor in [t for t in proto.graph.initializer if t.name in unused]:
        proto.graph.initializer.remove(tensor)
    del proto.functions[:]
    found = parse_model_file(proto.SerializeToString(), "m")
    assert inspect_model.as_text(found)[-1] == "attention blocks: none"
    assert inspect_model.as_data(found)["blocks"] == []


@pytest.mark.parametrize(
    ("labels", "channel"),
    [
        (("x\x1b]0;t\x07", "y"), Channel("a")),
        (("x", "y"), Channel("a\x1b[31m\r\n")),
        (("x", "y"), Channel("a", "\x07g")),
    ],
)
def test_names_do_not_steer_the_terminal(cli, tmp_path: Path, labels: tuple[str, ...], channel: Channel):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_file(Contract(50.0, 8, 4, labels, (channel, Channel("b")))))
    done = cli("sattn-inspect", path)
    assert done.code == 3
    assert "without control characters" in done.err
    assert all(line.isprintable() for line in done.err.splitlines())
