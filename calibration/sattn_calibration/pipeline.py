"""Calibration from a model file and windows to the model file with its table.

load -> check the data -> split -> observe -> search for each target -> refit on everything -> table -> write
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sattn_calibration.choice import Chosen, Fold, Search, Tried
from sattn_calibration.collect import Observation, Product, collect, main_products
from sattn_calibration.data_checks import check_data
from sattn_calibration.data_report import DataReport, data_report
from sattn_calibration.judge import Judge, Judged
from sattn_calibration.recipe import SCHEMES, Kitchen, kitchen, recipes_for, short
from sattn_calibration.split import Split, split
from sattn_calibration.thresholds import METHODS, thresholds
from sattn_edge.calibration_table import CalibrationTable, Scheme, ValueRange, WeightRange
from sattn_edge.errors import UsageError
from sattn_edge.files import write_atomic
from sattn_edge.model_file import ModelFile, load_model_file, with_calibration
from sattn_edge.windows import WindowSet, even, load_windows

Method = Literal["auto", "minmax", "percentile", "entropy", "mse"]
DEFAULT_BUDGET = 0.5
MAX_SEARCHED = 400
"""Windows a candidate is judged on while searching, which stays short so."""
MAX_FINAL = 2000
"""Windows the budget is judged on, held out, and again over everything: half a point of them is ten."""


@dataclass(frozen=True)
class CalibrateOptions:
    """budget: percentage points of top-1 disagreement with FP32. output: what to write; None is the model file."""

    model: Path
    data: str
    method: Method = "auto"
    budget: float = DEFAULT_BUDGET
    output: Path | None = None


@dataclass(frozen=True)
class Flip:
    """A window whose label changes: its place in the data, labels as indices (truth None if unknown), FP32's margin."""

    window: int
    fp32: int
    int8: int
    truth: int | None
    margin: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """Everything a report needs. `chosen` and `flips` by target; flips over `final_windows` windows of all data.

    final_truth: labels int16 of those windows, -1 = unscored, None if nothing is known.
    fp32: FP32's labels of those windows. margins: its lead over the next label, float32, of the logit scale.
    """

    model: ModelFile
    windows: WindowSet
    data: DataReport
    split: Split
    products: tuple[Product, ...]
    observations: Mapping[str, Observation]
    chosen: Mapping[str, Chosen]
    flips: Mapping[str, tuple[Flip, ...]]
    final_truth: NDArray[np.int16] | None
    fp32: NDArray[np.int64]
    margins: NDArray[np.float32]
    table: CalibrationTable
    output: Path

    @property
    def met_budget(self) -> bool:
        """Whether every target keeps the budget."""
        return all(c.placement.met_budget for c in self.chosen.values())


def calibrate(options: CalibrateOptions, listen: Callable[[Tried], None] = lambda _: None) -> Calibration:
    """Calibrates a model file on real windows and writes it with its table.

    listen: is told of each candidate as it is judged.

    Raises:
        UsageError: a budget below 0, or an output that can't be written.
        ModelFileError: the model file was refused.
        RecordingError: the data can't support ranges; the message says why. Nothing is written.
    """
    if not 0 <= options.budget <= 100:
        raise UsageError("--budget", f"got {options.budget:g}", "percentage points from 0 to 100")
    _check_output(options)
    model = load_model_file(options.model)
    windows = load_windows(options.data, model.contract)
    check_data(windows, model.contract)
    result = _calibrate(model, windows, options, listen)
    try:
        write_atomic(result.output, with_calibration(model, result.table))
    except OSError as error:
        raise UsageError("--output", f"'{result.output}' can't be written ({error.strerror})") from error
    return result


def _check_output(options: CalibrateOptions) -> None:
    """The search takes minutes: where its result goes is looked at before."""
    output = options.output or options.model
    if options.output is not None and output.suffix != ".onnx":
        raise UsageError("--output", f"got '{output}'", "a name that ends in .onnx")
    if output.is_dir():
        raise UsageError("--output", f"'{output}' is a folder", "a file", "another name")
    if not output.parent.is_dir():
        raise UsageError("--output", f"folder '{output.parent}' is not there", todo="make it first")
    if not os.access(output.parent, os.W_OK):
        raise UsageError("--output", f"folder '{output.parent}' can't be written", todo="name another with -o")


def _calibrate(
    model: ModelFile, windows: WindowSet, options: CalibrateOptions, listen: Callable[[Tried], None]
) -> Calibration:
    parts = split(windows, model.contract.window, model.contract.hop)
    products = tuple(main_products(model.proto))
    on_all = _kitchen(model, products, windows.x)
    folds = (
        _fold(model, products, windows, parts.ranges, parts.judge),
        _fold(model, products, windows, parts.judge, parts.ranges),
    )
    place = even(len(windows.x), MAX_FINAL)
    everything = Judge(model.proto, windows.x[place])
    chosen, flips = {}, {}
    for target in SCHEMES:
        search = Search(target, folds, options.budget, listen)
        chosen[target] = search.run(recipes_for(options.method), on_all, everything)
        flips[target] = _flips(everything, chosen[target].final, windows, place)
    return Calibration(
        model=model,
        windows=windows,
        data=data_report(windows, model.contract),
        split=parts,
        products=products,
        observations=on_all.observations,
        chosen=chosen,
        flips=flips,
        final_truth=None if windows.y is None else windows.y[place],
        fp32=everything.reference.argmax(1),
        margins=everything.margins,
        table=_table(model, windows, options, on_all, chosen),
        output=options.output or options.model,
    )


def _fold(
    model: ModelFile,
    products: tuple[Product, ...],
    windows: WindowSet,
    ranges: NDArray[np.int64],
    judged: NDArray[np.int64],
) -> Fold:
    telling = judged[_telling(windows.x[judged], MAX_SEARCHED // 2)]
    many = judged[even(len(judged), MAX_FINAL // 2)]
    verdict = Judge(model.proto, windows.x[many])
    search = verdict if len(telling) == len(many) else Judge(model.proto, windows.x[telling])
    return Fold(_kitchen(model, products, windows.x[ranges]), search, verdict)


def _telling(x: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Which windows to search on where there are more than `limit`: most of them evenly, the rest the loudest.

    The loudest, by their largest sample in spreads of its channel, are where a range clips; they are rare, and a few
    hundred windows taken evenly can miss them all.
    """
    if len(x) <= limit:
        return np.arange(len(x), dtype=np.int64)
    spread = np.maximum(x.std(axis=(0, 1, 2)), np.finfo(np.float32).tiny)
    peak = (np.abs(x - x.mean(axis=(0, 1, 2))) / spread).max(axis=(1, 2, 3))
    loudest = np.argsort(-peak, kind="stable")[: limit // 4]
    rest = np.setdiff1d(np.arange(len(x), dtype=np.int64), loudest)
    return np.sort(np.concatenate([loudest, rest[even(len(rest), limit - len(loudest))]]))


def _kitchen(model: ModelFile, products: tuple[Product, ...], x: NDArray[np.float32]) -> Kitchen:
    values = list(dict.fromkeys(v for p in products for v in (p.input, p.output)))
    return kitchen(model.proto, products, collect(model.proto, values, x))


def _flips(everything: Judge, found: Judged, windows: WindowSet, place: NDArray[np.int64]) -> tuple[Flip, ...]:
    truth = None if windows.y is None else windows.y[place]
    return tuple(
        Flip(
            window=int(place[i]),
            fp32=int(everything.reference[i].argmax()),
            int8=int(found.logits[i].argmax()),
            truth=None if truth is None or truth[i] < 0 else int(truth[i]),
            margin=float(everything.margins[i]),
        )
        for i in np.flatnonzero(found.flipped)
    )


def _table(
    model: ModelFile, windows: WindowSet, options: CalibrateOptions, seen: Kitchen, chosen: Mapping[str, Chosen]
) -> CalibrationTable:
    def ranges(value: str, scheme: Scheme) -> dict[str, tuple[float, float]]:
        pairs = {m: thresholds(seen.observations[value].histogram, m, scheme) for m in METHODS}
        return {m: (short(low), short(high)) for m, (low, high) in pairs.items()}

    return CalibrationTable(
        graph=model.graph_digest,
        data=windows.digest,
        windows=len(windows.x),
        method=options.method,
        budget=options.budget,
        values=tuple(
            ValueRange(
                name=name,
                minimum=short(found.minimum),
                maximum=short(found.maximum),
                histogram=found.histogram.digest(),
                u8=ranges(name, "u8"),
                s8=ranges(name, "s8"),
            )
            for name, found in seen.observations.items()
        ),
        weights=tuple(WeightRange(p.name, tuple(short(float(w)) for w in p.weight_maximum)) for p in seen.products),
        placements={target: result.placement for target, result in chosen.items()},
    )
