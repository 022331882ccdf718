"""A model file that gives its attention: what it carries, what is refused, and what an engine makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from sattn_edge.attention_output import MOST_BLOCKS, AttentionBlock, AttentionLayout, attention_text, read_layout
from sattn_edge.engine import COPIED_IN, COPIED_OUT, INFERRED, EngineOptions, load_engine, open_engine
from sattn_edge.errors import ModelFileError, UsageError
from sattn_edge.lowering import FORMS
from sattn_edge.model_file import load_model_file, parse_model_file, with_calibration
from sattn_edge.passes import run_passes
from sattn_edge.passes.expose_gates import ExposeGates
from tests.helpers_calibration import calibrate_by_hand, make_table
from tests.helpers_data import make_contract
from tests.helpers_model import logits_of, model_file, save_model, session_of
from tests.helpers_onnx import changed, make_model, refused

CONTRACT = make_contract(window=16, hop=8)
MODAL = CONTRACT.modal
WITH, WITHOUT = (model_file(CONTRACT, attention=given) for given in (True, False))
KEY = "sattn_edge.attention"
LAYOUT = AttentionLayout((AttentionBlock("a", 4, 2, 0.0, 2.0), AttentionBlock("b", 2, 2, 1.0, 4.0)))


def edited(change: Callable[[ModelProto, dict[str, str]], object], data: bytes = WITH) -> bytes:
    """A file with graph and metadata changed."""
    proto = onnx.load_from_string(data)
    props = {p.key: p.value for p in proto.metadata_props}
    change(proto, props)
    helper.set_model_props(proto, props)
    return proto.SerializeToString()


def in_layout(change: Callable[[Any], object]) -> Callable[[ModelProto, dict[str, str]], None]:
    def edit(_: ModelProto, props: dict[str, str]) -> None:
        value = json.loads(props[KEY])
        change(value)
        props[KEY] = json.dumps(value)

    return edit


class TestTheFile:
    def test_the_layout_comes_back(self) -> None:
        layout = parse_model_file(WITH, "net.onnx").attention
        assert layout is not None
        assert [(b.name, b.steps, b.modal) for b in layout.blocks] == [
            ("block0.attention", 8, MODAL),
            ("block1.attention", 4, MODAL),
        ]
        assert layout.blocks[1].centres.tolist() == [0, 4, 8, 12]
        assert parse_model_file(WITH, "net.onnx").graph_unchanged

    def test_a_file_without_speaks_of_it_nowhere(self) -> None:
        model = parse_model_file(WITHOUT, "net.onnx")
        assert model.attention is None
        assert len(model.proto.graph.output) == 1
        assert not [p.key for p in model.proto.metadata_props if p.key == KEY]
        assert b"WithGate" not in WITHOUT

    def test_calibration_leaves_it_where_it_is(self) -> None:
        model = parse_model_file(WITH, "net.onnx")
        again = parse_model_file(with_calibration(model, make_table(model)), "net.onnx")
        assert again.attention == model.attention
        assert again.graph_digest == model.graph_digest
        assert again.calibration is not None

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (lambda _, p: p.pop(KEY), "carries no sattn_edge.attention"),
            (
                lambda m, _: m.graph.output.pop(),
                "carries sattn_edge.attention, but its graph has no output 'attention'",
            ),
            (lambda _, p: p.update({KEY: "{"}), "sattn_edge.attention is not JSON"),
            (lambda _, p: p.update({KEY: "[]"}), "sattn_edge.attention can't be read (Expected `object`"),
            (in_layout(lambda v: v["blocks"].pop()), f"has {12 * MODAL} values; sattn_edge.attention says {8 * MODAL}"),
            (in_layout(lambda v: v["blocks"].clear()), "can't be read (0 blocks)"),
            (in_layout(lambda v: v["blocks"][0].update(steps=0)), f"can't be read (a gate of 0 x {MODAL})"),
            (in_layout(lambda v: v["blocks"][0].update(more=1)), "unknown field `more`"),
            (in_layout(lambda v: v["blocks"][0].update(samples_per_step=0)), "can't be read (steps 0 samples apart)"),
            (in_layout(lambda v: v["blocks"][0].update(first_sample=1e999)), "sattn_edge.attention"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, change, text) -> None:
        with pytest.raises(ModelFileError) as caught:
            parse_model_file(edited(change), "net.onnx")
        assert text in str(caught.value)
        assert str(caught.value).startswith("net.onnx: ")

    def test_numbers_no_json_holds_are_refused_too(self) -> None:
        block = {"name": "a", "steps": 1, "modal": 1, "first_sample": float("nan"), "samples_per_step": 1.0}
        with pytest.raises(ValueError, match="a gate at no time"):
            read_layout({"blocks": [block]})
        with pytest.raises(ValueError, match=f"{MOST_BLOCKS + 1} blocks"):
            read_layout({"blocks": [{**block, "first_sample": 0.0}] * (MOST_BLOCKS + 1)})


def with_gates(change: Callable[[ModelProto], object]) -> bytes:
    return changed(change, run_passes(make_model(), [ExposeGates()])[0])


class TestTheGate:
    """What `sattn_edge.gate` says of a second output."""

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (
                lambda m: m.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["b", 24])),
                "has 3 outputs; the logits, and 'attention' at most",
            ),
            (lambda m: m.graph.output.reverse(), "has the outputs 'attention' and 'logits'; the logits, then"),
            (
                lambda m: m.graph.output[1].type.tensor_type.shape.dim.add(dim_value=1),
                "output 'attention' is [free, 72, 1]; [free batch, values]",
            ),
            (
                lambda m: setattr(m.graph.output[1].type.tensor_type.shape.dim[1], "dim_value", 71),
                "71",
            ),
            (lambda m: m.functions[0].output.pop(), "is not the one this version writes"),
            (lambda m: setattr(m.functions[0], "name", "SpatialAttentionWith"), "is none of ours"),
        ],
    )
    def test_what_is_refused(self, change, text) -> None:
        assert text in refused(with_gates(change))

    def test_control_what_is_written_passes(self) -> None:
        with pytest.raises(pytest.fail.Exception):
            refused(with_gates(lambda _: None))


class TestTheLayout:
    def test_gates_come_apart_as_they_lie(self) -> None:
        gates = np.arange(24, dtype=np.float32).reshape(2, 12)
        first, second = LAYOUT.split(gates)
        assert first.shape == (2, 4, 2)
        assert second.shape == (2, 2, 2)
        np.testing.assert_array_equal(first[0], [[0, 1], [2, 3], [4, 5], [6, 7]])
        np.testing.assert_array_equal(second[1], [[20, 21], [22, 23]])
        assert np.shares_memory(first, gates)

    def test_its_line_in_a_report(self) -> None:
        assert attention_text(LAYOUT) == "[batch, 12], the gates: 4 x 2, 2 x 2"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return calibrate_by_hand(save_model(folder, window=32, modal=3, attention=True))


def windows(count: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, 1, 32, 3)).astype(np.float32)


class TestTheEngine:
    @pytest.mark.parametrize("form", FORMS)
    def test_logits_and_gates_of_the_file(self, path, form) -> None:
        engine = load_engine(path, attention=form)
        logits, gates = session_of(path.read_bytes()).run(None, {"input": windows(5)})
        found = engine.infer_attention(windows(5), [0, 0, 0])
        assert np.abs(found[0] - logits).max() <= 1e-5 * np.abs(logits).max()
        assert np.abs(found[1] - gates).max() <= 1e-5
        assert engine.gates is not None
        assert found[1].shape == (5, engine.gates.values)
        assert engine.gates == load_model_file(path).attention

    def test_who_wants_the_logits_alone_gets_them_as_ever(self, path) -> None:
        engine = load_engine(path)
        x, stamps = windows(3), [0, 0, 0]
        np.testing.assert_array_equal(engine.infer(x), logits_of(path.read_bytes(), x))
        np.testing.assert_array_equal(engine.infer_stamped(x, stamps), engine.infer(x))
        assert 0 < stamps[COPIED_IN] <= stamps[INFERRED] == stamps[COPIED_OUT]

    def test_stages_are_stamped(self, path) -> None:
        stamps = [0, 0, 0]
        load_engine(path).infer_attention(windows(1), stamps)
        assert 0 < stamps[COPIED_IN] < stamps[INFERRED] == stamps[COPIED_OUT]

    def test_int8_gives_them_too(self, path) -> None:
        engine = load_engine(path, precision="int8")
        exact = session_of(path.read_bytes()).run(None, {"input": windows(5)})[1]
        difference = np.abs(engine.infer_attention(windows(5), [0, 0, 0])[1] - exact).max()
        assert 1e-5 < difference < 0.1

    def test_a_file_without_has_none(self) -> None:
        engine = open_engine(parse_model_file(WITHOUT, "net.onnx"), "onnxruntime", EngineOptions())
        assert engine.gates is None
        with pytest.raises(UsageError, match="attention: the model file does not give it; export the model again"):
            engine.infer_attention(np.zeros((1, 1, 16, MODAL), np.float32), [0, 0, 0])
