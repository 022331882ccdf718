from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from sattn_edge.contract import Channel, Contract
from sattn_edge.model_file import load_model_file, model_bytes, parse_model_file
from sattn_runtime import inspect_model
from tests.helpers_data import make_contract
from tests.helpers_model import golden_of, model_file, save_model, save_watch_model
from tests.helpers_onnx import make_model
from tests.helpers_run import Cli
from tests.sattn_runtime.test_verify import add_to_class_1, change_weights


@pytest.fixture
def cli(capfd, monkeypatch) -> Cli:
    return Cli(capfd, monkeypatch)


def test_the_page(cli, tmp_path):
    done = cli("sattn-inspect", save_watch_model(tmp_path))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert re.fullmatch(r"watch\.onnx: [\d,]+ bytes, format 1", lines[0])
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines[2:15])
    assert rows["window"] == "200 samples (4 s) of 6 channels"
    assert rows["hop"] == "100 samples (2 s)"
    assert rows["labels"] == "PEN, ABD, FEL, IR, ER, TRAP, ROW"
    assert rows["checkpoint"] == "random weights"
    assert rows["golden"] == "6 windows, from watch_tiny.npz"
    assert rows["graph"].endswith("(as exported)")
    assert rows["calibration"] == "none: runs in fp32"
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
