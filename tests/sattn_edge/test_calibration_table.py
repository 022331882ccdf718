"""Reading the calibration table of a model file: what is refused, and with which exit code."""

from __future__ import annotations

import msgspec
import pytest

from sattn_edge.calibration_table import (
    Agreement,
    CalibrationTable,
    LayerChoice,
    Placement,
    ValueRange,
    WeightRange,
    placement_for,
    read_table,
)
from sattn_edge.errors import DigestError, ModelFileError

GRAPH = "sha256:" + "a" * 64


def table(**layer: object) -> CalibrationTable:
    choice = LayerChoice(**{"layer": "conv1", "int8": True, "low": 0.0, "high": 2.0, **layer})
    seen = Agreement(200, 1, 0.01, 0.002, 0.02)
    return CalibrationTable(
        graph=GRAPH,
        data="sha256:" + "b" * 64,
        windows=400,
        method="auto",
        budget=0.5,
        values=(ValueRange("r0", 0.0, 2.0, "sha256:c", {"minmax": (0.0, 2.0)}, {"minmax": (-2.0, 2.0)}),),
        weights=(WeightRange("conv1", (0.5, 0.25)),),
        placements={"onnxruntime": Placement("onnxruntime", "u8", (choice,), seen, seen, True)},
    )


def raw(**layer: object) -> dict:
    return msgspec.json.decode(msgspec.json.encode(table(**layer)))


def test_a_table_is_read_back_as_it_was_written():
    assert read_table(raw(), "har.onnx", GRAPH) == table()


def test_no_table_says_how_to_make_one():
    with pytest.raises(
        ModelFileError, match=r"carries no calibration table.*sattn-calibrate har\.onnx --data"
    ) as found:
        read_table(None, "har.onnx", GRAPH)
    assert found.value.exit_code == 3


def test_a_table_of_another_graph_does_not_match():
    with pytest.raises(DigestError, match="was calibrated for graph sha256:aaaaaaaaaaaa") as found:
        read_table(raw(), "har.onnx", "sha256:" + "d" * 64)
    assert found.value.exit_code == 7


def test_a_newer_table_is_refused():
    with pytest.raises(ModelFileError, match=r"version 2.*reads up to 1"):
        read_table({**raw(), "version": 2}, "har.onnx", GRAPH)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 0.5}, "a range of 'conv1' .* that does not hold zero"),
        ({"high": -0.5, "low": -1.0}, "does not hold zero"),
        ({"out_low": 0.1, "out_high": 0.2}, "does not hold zero"),
        ({"high": 1e30}, "a range of 'conv1' .* beyond"),
        ({"factors": (1.0, 0.0)}, "factors of 'conv1' .* not numbers above zero"),
        ({"factors": (1.0, 1e30)}, "factors of 'conv1' .* not numbers above zero"),
    ],
)
def test_numbers_that_can_not_be_are_refused(change, words):
    with pytest.raises(ModelFileError, match=words):
        read_table(raw(**change), "har.onnx", GRAPH)


@pytest.mark.parametrize("change", [{"graph": 3}, {"placements": {"onnxruntime": {}}}, {"more": 1}])
def test_another_structure_is_refused(change):
    with pytest.raises(ModelFileError, match="can't be read"):
        read_table({**raw(), **change}, "har.onnx", GRAPH)


def test_a_target_without_choices_is_named():
    with pytest.raises(ModelFileError, match=r"no INT8 choices for tensorrt.*some for onnxruntime"):
        placement_for(table(), "tensorrt", "har.onnx")


def test_points_are_percent_of_the_windows():
    assert Agreement(200, 1, 0.0, 0.0, 0.0).points == 0.5
    assert Agreement(0, 0, 0.0, 0.0, 0.0).points == 0.0
