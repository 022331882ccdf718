"""The calibration table a model file carries: what was seen on real windows, and what each target does with it.

Ranges are kept per value of the source graph, so one table serves every target. A placement holds the choices made
for one target, each judged on that target's own graph with Q/DQ nodes; `sattn_calibration` writes it, lowering
reads it. Nothing in it is random, and nothing depends on the time or on what a file is called: the same data give the
same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sattn_edge.errors import DigestError, ModelFileError

if TYPE_CHECKING:
    from sattn_edge.model_file import ModelFile

VERSION = 1
CLEAR_MARGIN = 0.05
"""FP32 is sure of a label that leads by more than this much of the logit scale: such a flip is never accepted."""
Scheme = Literal["u8", "s8"]
_LARGEST = 1e18  # its square is still a float32
_CALIBRATE = "sattn-calibrate {name} --data windows.npz"


class ValueRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one value of the source graph was seen to hold.

    histogram: sha256 of the histogram over all windows. u8 and s8: thresholds by method, [low, high] with
    low <= 0 <= high for u8, [-bound, bound] for s8.
    """

    name: str
    minimum: float
    maximum: float
    histogram: str
    u8: dict[str, tuple[float, float]]
    s8: dict[str, tuple[float, float]]


class LayerChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a target does with one main product (a node of the source graph).

    reason: why it is not int8. low, high: the range of its input; out_low, out_high: of its output, which only
    convolutions on ONNX Runtime quantise. factors: what each feature map of the input is divided by beforehand
    (and the weights multiplied by), empty for none.
    """

    layer: str
    int8: bool
    reason: str = ""
    method: str = ""
    low: float = 0.0
    high: float = 0.0
    out_low: float = 0.0
    out_high: float = 0.0
    factors: tuple[float, ...] = ()


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """INT8 beside FP32 over some windows.

    flips: windows whose label differs; worst_margin: the largest FP32 margin among them, rms and largest: logit
    error; all three of the logit scale.
    """

    windows: int
    flips: int
    worst_margin: float
    rms: float
    largest: float

    @property
    def points(self) -> float:
        """Percentage points of windows whose label differs."""
        return 100.0 * self.flips / self.windows if self.windows else 0.0

    def within(self, budget_points: float) -> bool:
        """Labels differ on no more windows than the budget allows, and on none of which FP32 was sure."""
        return self.points <= budget_points and self.worst_margin <= CLEAR_MARGIN


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The choices for one target. `judged` is on windows that gave no ranges, `final` on all of them.

    forms: how the same choices do in other attention forms than the usual one, whose Q/DQ graphs are others.
    """

    target: str
    scheme: Scheme
    layers: tuple[LayerChoice, ...]
    judged: Agreement
    final: Agreement
    met_budget: bool
    forms: dict[str, Agreement] = {}

    def chosen(self) -> dict[str, LayerChoice]:
        """The layers that run in int8, by name."""
        return {choice.layer: choice for choice in self.layers if choice.int8}


class WeightRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest absolute weight of each output channel of one main product."""

    layer: str
    maximum: tuple[float, ...]


class CalibrationTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything. `graph` and `data` are digests of the source graph and of the windows."""

    graph: str
    data: str
    windows: int
    method: str
    budget: float
    values: tuple[ValueRange, ...]
    weights: tuple[WeightRange, ...]
    placements: dict[str, Placement]
    version: int = VERSION


def read_table(raw: dict[str, Any] | None, name: str, graph_digest: str) -> CalibrationTable:
    """The table of a model file, checked against its graph.

    Raises:
        ModelFileError: there is none, it can't be read, or it is of a newer version; exit code 3.
        DigestError: it was made for another graph; exit code 7.
    """
    line = _CALIBRATE.format(name=name)
    again = f"calibrate it again: {line}"
    if raw is None:
        raise ModelFileError(name, "carries no calibration table", "int8 needs one", f"make it: {line}")
    if isinstance(raw.get("version"), int) and raw["version"] > VERSION:
        raise ModelFileError(
            name,
            f"has a calibration table of version {raw['version']}",
            f"this one reads up to {VERSION}",
            "upgrade sattn-edge",
        )
    try:
        table = msgspec.convert(raw, CalibrationTable)
    except msgspec.ValidationError as error:
        raise ModelFileError(name, f"has a calibration table that can't be read ({error})", todo=again) from error
    if (found := _impossible(table)) is not None:
        raise ModelFileError(name, f"has a calibration table with {found}", "numbers that can be", again)
    if table.graph != graph_digest:
        raise DigestError(
            name,
            f"was calibrated for graph {table.graph[:19]}, and holds graph {graph_digest[:19]}",
            "a table serves the graph it was made on",
            again,
        )
    return table


def _impossible(table: CalibrationTable) -> str | None:
    """What no calibration would write, so that lowering need not look."""
    for key, placement in table.placements.items():
        for choice in placement.layers:
            ends = (choice.low, 0.0, choice.high), (choice.out_low, 0.0, choice.out_high)
            if not all(low <= zero <= high for low, zero, high in ends):
                return f"a range of '{choice.layer}' ({key}) that does not hold zero"
            if not all(low > -_LARGEST and high < _LARGEST for low, _, high in ends):
                return f"a range of '{choice.layer}' ({key}) beyond what a float32 network computes in"
            if not all(1 / _LARGEST < factor < _LARGEST for factor in choice.factors):
                return f"factors of '{choice.layer}' ({key}) that are not numbers above zero"
    return None


def placement_for(table: CalibrationTable, target: str, name: str) -> Placement:
    """The choices for a target. Raises ModelFileError where the table has none."""
    if target not in table.placements:
        raise ModelFileError(
            name,
            f"has no INT8 choices for {target}",
            f"it has some for {', '.join(sorted(table.placements)) or 'nothing'}",
            f"calibrate it again: {_CALIBRATE.format(name=name)}",
        )
    return table.placements[target]


def placement_of(model: ModelFile, target: str) -> Placement:
    """The choices for a target in a model file's own table. Raises what `read_table` and `placement_for` raise."""
    return placement_for(read_table(model.calibration, model.name, model.graph_digest), target, model.name)
