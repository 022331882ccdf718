from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.contract import Channel, Contract
from sattn_edge.errors import ModelFileError
from sattn_edge.model_file import (
    FORMAT,
    GOLDEN_MAX_BYTES,
    GOLDEN_MAX_COUNT,
    Golden,
    canonical_json,
    golden_limit,
    graph_digest,
    load_model_file,
    model_bytes,
    parse_model_file,
)
from tests.helpers_data import make_contract
from tests.helpers_model import golden_of, model_file, save_model
from tests.helpers_onnx import make_model

CONTRACT = make_contract(window=8, hop=4)
DATA = model_file(CONTRACT)
Props = dict[str, str]


def edited(change: Callable[[Props], object], data: bytes = DATA) -> bytes:
    """The file with its metadata changed."""
    proto = onnx.load_from_string(data)
    props = {p.key: p.value for p in proto.metadata_props}
    change(props)
    del proto.metadata_props[:]
    for key, value in props.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def set_json(key: str, change: Callable[[Any], object]) -> Callable[[Props], None]:
    """Changes one JSON value in place, or replaces it by what `change` returns."""

    def edit(props: Props) -> None:
        value = json.loads(props[f"sattn_edge.{key}"])
        replaced = change(value)
        props[f"sattn_edge.{key}"] = json.dumps(value if replaced is None else replaced)

    return edit


def refuses(data: bytes, text: str) -> None:
    with pytest.raises(ModelFileError, match=re.escape(text)) as caught:
        parse_model_file(data, "m")
    assert caught.value.exit_code == 3


# ------------------------------------------------------------------ round trip


def test_what_goes_in_comes_out():
    rows = tuple(Channel(n, "g", 0.5, 2.0, -8.0, 8.0) for n in ("é", "y", "z"))
    contract = Contract(33.3, 32, 5, ("a", "b", "c", "d"), rows)
    proto = make_model()
    golden = golden_of(proto, np.random.default_rng(1).normal(size=(3, 1, 32, 3)).astype(np.float32), "watch")
    data = model_bytes(proto, contract, golden, statistics={"n": [1, 2]}, provenance={"by": "tests", "x": None})
    found = parse_model_file(data, "m.onnx")
    assert (found.name, found.data, found.contract) == ("m.onnx", data, contract)
    assert found.golden.x.tobytes() == golden.x.tobytes()
    assert found.golden.logits.tobytes() == golden.logits.tobytes()
    assert (found.golden.x.dtype, found.golden.logits.dtype) == (np.float32, np.float32)
    assert (found.golden.synthetic, found.golden.source) == (False, "watch")
    assert found.statistics == {"n": [1, 2]}
    assert found.calibration is None
    assert found.provenance == {"by": "tests", "x": None, "graph_digest": graph_digest(proto)}
    assert found.graph_unchanged
    assert found.golden.logit_scale == np.abs(golden.logits).max()
    assert found.proto.graph == proto.graph


def test_the_same_inputs_give_the_same_bytes():
    assert model_file(CONTRACT) == DATA
    assert model_file(CONTRACT, seed=1) != DATA
    proto = make_model()
    golden = golden_of(proto, np.zeros((1, 1, 32, 3), np.float32))
    contract = make_contract(("a", "b", "c"), window=32, labels=("1", "2", "3", "4"))
    one = model_bytes(proto, contract, golden, statistics=None, provenance={"a": 1, "b": {"d": 2, "c": 3}})
    other = model_bytes(proto, contract, golden, statistics=None, provenance={"b": {"c": 3, "d": 2}, "a": 1})
    assert one == other


def test_writing_again_what_was_read_changes_nothing():
    found = parse_model_file(DATA, "m")
    provenance = {k: v for k, v in found.provenance.items() if k != "graph_digest"}
    again = model_bytes(found.proto, found.contract, found.golden, statistics=None, provenance=provenance)
    assert again == DATA


def test_any_onnx_tool_opens_it(tmp_path):
    proto = onnx.load(save_model(tmp_path))
    onnx.checker.check_model(proto)
    keys = [p.key for p in proto.metadata_props]
    assert keys == [f"sattn_edge.{k}" for k in ("format", "contract", "golden", "provenance")]


def test_other_tools_metadata_is_left_alone():
    data = edited(lambda props: props.update({"author": "x", "sattn_edgeling": "y"}))
    assert parse_model_file(data, "m").contract == CONTRACT


def test_digests():
    found = parse_model_file(DATA, "m")
    assert re.fullmatch("sha256:[0-9a-f]{64}", found.file_digest)
    touched = parse_model_file(edited(lambda props: props.update(note="x")), "m")
    assert touched.file_digest != found.file_digest
    assert touched.graph_digest == found.graph_digest
    proto = onnx.load_from_string(DATA)
    proto.producer_name, proto.doc_string, proto.model_version = "somebody", "words", 3
    assert graph_digest(proto) == found.graph_digest
    proto.graph.initializer[0].raw_data = proto.graph.initializer[1].raw_data
    assert graph_digest(proto) != found.graph_digest


def test_a_calibration_is_kept():
    data = edited(lambda props: props.update({"sattn_edge.calibration": '{"ranges":{}}'}))
    assert parse_model_file(data, "m").calibration == {"ranges": {}}


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 5), values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_golden_windows_keep_every_bit(n, values):
    x = np.resize(np.array(values, np.float32), (n, 1, 8, 2))
    logits = np.resize(np.array(values[::-1], np.float32), (n, 3))
    proto = make_model(series=8, modal=2, classes=3)
    data = model_bytes(proto, CONTRACT, Golden(x, logits, True, "s"), statistics=None, provenance={})
    found = parse_model_file(data, "m").golden
    assert (found.x.tobytes(), found.logits.tobytes()) == (x.tobytes(), logits.tobytes())


def test_equal_values_give_equal_json():
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"é"],"b":1}'


# ------------------------------------------------------------------ what is refused

B64 = base64.b64encode(np.zeros(2 * 8 * 2, "<f4").tobytes()).decode()
NAN64 = base64.b64encode(np.full(2 * 8 * 2, np.nan, "<f4").tobytes()).decode()
BIG64 = base64.b64encode(bytes(GOLDEN_MAX_BYTES + 64)).decode()


def drop(key: str) -> Callable[[Props], object]:
    return lambda props: props.pop(f"sattn_edge.{key}")


def put(key: str, value: str) -> Callable[[Props], object]:
    return lambda props: props.update({f"sattn_edge.{key}": value})


def golden(**changes: Any) -> Callable[[Props], object]:
    return set_json("golden", lambda row: row.update(changes))


DEEP = "[" * 100_000 + "]" * 100_000
CANT = "m: golden windows can't be read ("
SHAPE = "m: golden windows do not have the contract's shape; make it with sattn-export"
BAD: dict[str, tuple[Callable[[Props], object], str]] = {
    "no format": (drop("format"), "m: carries no sattn_edge.format; a model file is an ONNX file made by sattn-export"),
    "newer format": (put("format", "2"), f"m: has format 2; this version reads up to format {FORMAT}; upgrade"),
    "format far": (put("format", "9" * 4000), "m: has format 99999999999999999999; this version reads up to"),
    "format word": (put("format", "one"), "m: sattn_edge.format is 'one'; a number up to 1"),
    "format minus": (put("format", "-1"), "m: sattn_edge.format is '-1'"),
    "format digit": (put("format", "²"), "m: sattn_edge.format is '²'"),
    "format empty": (put("format", ""), "m: sattn_edge.format is ''"),
    "no contract": (drop("contract"), "m: carries no sattn_edge.contract; make it with sattn-export"),
    "no golden": (drop("golden"), "m: carries no sattn_edge.golden"),
    "no provenance": (drop("provenance"), "m: carries no sattn_edge.provenance"),
    "contract text": (put("contract", "rate_hz = 50"), "m: sattn_edge.contract is not JSON ("),
    "contract deep": (put("contract", DEEP), "m: sattn_edge.contract is not JSON ("),
    "golden deep": (put("golden", DEEP), "m: sattn_edge.golden is not JSON ("),
    "provenance deep": (put("provenance", DEEP), "m: sattn_edge.provenance is not JSON ("),
    "contract list": (put("contract", "[]"), "m, contract: Expected `object`, got `array`"),
    "contract key": (set_json("contract", lambda c: c.update(hopp=1)), "m, contract: unknown key 'hopp'; did you"),
    "contract value": (set_json("contract", lambda c: c.update(hop=0)), "m, contract: hop is 0; a number of"),
    "contract NaN": (put("contract", '{"rate_hz":NaN}'), "m: sattn_edge.contract is not JSON ("),
    "provenance list": (put("provenance", "[1]"), "m: sattn_edge.provenance is not a JSON object"),
    "statistics list": (put("statistics", "3"), "m: sattn_edge.statistics is not a JSON object"),
    "calibration": (put("calibration", "{"), "m: sattn_edge.calibration is not JSON ("),
    "golden list": (put("golden", "[]"), CANT + "Expected `object`, got `array`"),
    "golden key": (golden(z=1), CANT + "Object contains unknown field `z`"),
    "golden type": (golden(x=1), CANT + "Expected `str`, got `int` - at `$.x`"),
    "golden base64": (golden(x="*" * 8), CANT),
    "golden padding": (golden(x=B64[:-1]), CANT),
    "golden letters": (golden(logits="é" * 8), CANT),
    "golden half a number": (golden(x="AAAA"), CANT),
    "golden few": (golden(x=B64), CANT),
    "golden dims": (golden(x_shape=[1, 1, 8]), CANT),
    "golden zero": (golden(x_shape=[0, 1, 8, 2]), CANT + "shape (0, 1, 8, 2), 384 bytes)"),
    "golden minus": (golden(x_shape=[-1, 1, 8, 2]), CANT + "shape (-1, 1, 8, 2)"),
    "golden huge": (golden(x_shape=[2**70, 1, 8, 2]), CANT),
    "golden NaN": (golden(x=NAN64, x_shape=[2, 1, 8, 2]), "m: golden windows hold NaN or Inf; finite numbers"),
    "golden oversized": (golden(x=BIG64), CANT + f"shape (6, 1, 8, 2), {GOLDEN_MAX_BYTES + 64} bytes)"),
    "golden count": (golden(x=B64, x_shape=[2, 1, 8, 2]), SHAPE),
    "golden turned": (golden(x_shape=[6, 1, 2, 8]), SHAPE),
    "golden classes": (golden(logits_shape=[9, 2]), SHAPE),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_metadata_is_refused(case):
    change, text = BAD[case]
    refuses(edited(change), text)


def test_the_untouched_file_is_accepted():
    """The control of all the above: reading and writing the metadata alone breaks nothing."""
    assert parse_model_file(edited(lambda props: None), "m").contract == CONTRACT


def test_a_format_of_five_thousand_digits():
    refuses(edited(put("format", "9" * 5000)), "m: has format 9999")


FITS = {
    "window": ({"window": 9}, "to [batch, 3]; the contract says [batch, 1, 9, 2] to [batch, 3]"),
    "labels": ({"labels": ["a", "b"]}, "the contract says [batch, 1, 8, 2] to [batch, 2]"),
    "channels": ({"channel": [{"name": "a"}]}, "the contract says [batch, 1, 8, 1] to [batch, 3]"),
    "huge": ({"window": 10**30}, f"the contract says [batch, 1, {10**30}, 2]"),
}


@pytest.mark.parametrize("case", FITS)
def test_a_contract_that_does_not_fit_the_graph(case):
    changes, text = FITS[case]
    data = edited(set_json("contract", lambda c: c.update(changes)))
    refuses(data, "m: the graph maps [batch, 1, 8, 2] to [batch, 3]")
    refuses(data, text)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"no\.onnx: can't be read \(No such file or directory\); make it with"):
        load_model_file(tmp_path / "no.onnx")
    with pytest.raises(ModelFileError, match=r"can't be read \(Is a directory\)"):
        load_model_file(tmp_path)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_of_the_metadata_is_refused_or_read(data):
    start = DATA.index(b"sattn_edge.contract")
    changed = bytearray(DATA)
    changed[data.draw(st.integers(start, len(DATA) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = parse_model_file(bytes(changed), "m")
    except ModelFileError:
        return
    assert found.golden.x.shape[1:] == (1, found.contract.window, found.contract.modal)


# ------------------------------------------------------------------ bounds on golden windows


@settings(deadline=None)
@given(window=st.integers(1, 20_000), modal=st.integers(1, 32))
def test_as_many_golden_windows_as_fit(window, modal):
    count = golden_limit(window, modal)
    each = len(base64.b64encode(bytes(window * modal * 4)))
    assert 1 <= count <= GOLDEN_MAX_COUNT
    assert count == 1 or count * each <= GOLDEN_MAX_BYTES
    assert count == GOLDEN_MAX_COUNT or (count + 1) * each > GOLDEN_MAX_BYTES


def test_the_logit_scale_of_nothing_but_zeros():
    found = parse_model_file(DATA, "m").golden
    assert replace(found, logits=np.zeros((6, 3), np.float32)).logit_scale == 0
