"""Whatever the gate lets through is lowered or refused in words, and no calibration table breaks an engine."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_edge.calibration_table import LayerChoice, read_table
from sattn_edge.engine import EngineOptions, open_engine
from sattn_edge.errors import SattnEdgeError
from sattn_edge.lowering import FORMS, PRECISIONS, Target, lower
from sattn_edge.model_file import ModelFile, parse_model_file, with_calibration
from tests.fuzz.mutate import mutant
from tests.helpers_calibration import calibrate_by_hand
from tests.helpers_model import save_model

MUTANTS = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelFile:
    path = calibrate_by_hand(save_model(tmp_path_factory.mktemp("model"), window=32, modal=3))
    return parse_model_file(path.read_bytes(), path.name)


def test_mutants_that_pass_the_gate_are_lowered_or_refused(model):
    lowered = 0
    for number in range(MUTANTS):
        try:
            found = parse_model_file(mutant(model.data, 1, number)[1], "mutant")
        except SattnEdgeError:
            continue
        for backend, precisions in PRECISIONS.items():
            for form in FORMS:
                for precision in (p for p in precisions if p != "int8"):
                    try:
                        lower(found.proto, Target(backend, form, precision))  # type: ignore[arg-type]
                        lowered += 1
                    except SattnEdgeError:
                        pass
    assert lowered > 200


numbers = st.one_of(st.floats(-1e20, 1e20), st.floats(-10, 10), st.just(0.0))
choice = st.builds(
    LayerChoice,
    layer=st.sampled_from(["block0.conv", "block1.conv", "classifier", "nothing"]),
    int8=st.booleans(),
    low=numbers,
    high=numbers,
    out_low=numbers,
    out_high=numbers,
    factors=st.one_of(st.just(()), st.lists(numbers, min_size=1, max_size=9).map(tuple)),
)


@given(st.lists(choice, max_size=3), st.sampled_from(FORMS))
def test_any_table_gives_finite_logits_or_an_error_of_ours(model, choices, form):
    table = read_table(model.calibration, model.name, model.graph_digest)
    placement = msgspec.structs.replace(table.placements["onnxruntime"], layers=tuple(choices))
    table = msgspec.structs.replace(table, placements={"onnxruntime": placement})
    spoilt = parse_model_file(with_calibration(model, table), "spoilt")
    try:
        engine = open_engine(spoilt, "onnxruntime", EngineOptions("int8", attention=form))
    except SattnEdgeError:
        return
    assert np.isfinite(engine.infer(model.golden.x)).all()
