"""`sattn demo`: export, verify, run and calibrate the network that ships, on the recording that ships with it.

Every step is a command a user could type, run as a process of its own and shown with its line. The recording holds
two people: INT8 gets its ranges from one of them, so that the other shows what they are worth on a person they have
not seen.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import msgspec
import typer

from sattn_edge.command import JSON_HELP, in_colour, new_app, print_json, print_lines, run_app, working
from sattn_edge.errors import SattnEdgeError, UnavailableError, UsageError
from sattn_edge.files import write_atomic
from sattn_edge.text import count, table

REAL_TIME_S = 9
_REAL_TIME_HOP = 10
_TIMELINE_COLUMNS = 78
_CALIBRATED_ON = "session_sub07"
_QUANTILES = ("p50", "p90", "p99", "p99.9", "max")


class DemoStepError(SattnEdgeError):
    """A step of the demo failed; it ends with that step's exit code."""

    def __init__(self, step: str, code: int) -> None:
        super().__init__(f"demo, step '{step}'", f"ended with exit code {code}", todo="its own message stands above")
        self.exit_code = code


@dataclass(frozen=True)
class Step:
    """A command that ran: how it is typed, what it reported, how long it took."""

    name: str
    line: str
    report: dict[str, Any]
    seconds: float


def run_demo(folder: Path, real_time_s: float = REAL_TIME_S) -> Iterator[Step]:
    """Runs the steps one by one; inputs and results are in `folder` afterwards.

    Raises:
        UsageError: the folder can't be written. DemoStepError: a step failed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _INPUTS:
            write_atomic(folder / name, (files("sattn_edge") / "demo_data" / name).read_bytes())
        for name in _JOURNALS:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError("--out", f"'{folder}' can't be written ({error.strerror})") from error
    checkpoint, contract, recording, model, *journals = (str(folder / name) for name in (*_INPUTS, *_RESULTS))
    replay = ["run", model, f"replay:{recording}"]
    yield _step("export", ["export", checkpoint, "--contract", contract, "-o", model, "--data", recording])
    yield _step("verify", ["verify", model])
    yield _step("replay", [*replay, "--journal", journals[0]])
    yield _step("calibrate", ["calibrate", model, "--data", f"{recording}#{_CALIBRATED_ON}"])
    yield _step("replay in INT8", [*replay, "--precision", "int8", "--journal", journals[1]])
    paced = [*replay, "--speed", "1.0", "--hop", str(_REAL_TIME_HOP)]
    yield _step("real time", paced, stop_after_s=real_time_s)


def _step(name: str, arguments: list[str], stop_after_s: float | None = None) -> Step:
    """Runs one command with --json; after `stop_after_s` it is asked to drain, as a service manager would."""
    line = "sattn " + shlex.join(arguments)
    began = monotonic()
    with working(f"{name}: {line}"):
        process = subprocess.Popen(
            [sys.executable, "-m", "sattn_edge", *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(timeout=stop_after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate()
    if process.returncode:
        sys.stderr.write(err.decode())
        raise DemoStepError(name, process.returncode)
    return Step(name, line, msgspec.json.decode(out), monotonic() - began)


def timeline(journal: Path, labels: list[str], *, colour: bool) -> list[str]:
    """True and given labels over time, a letter a column; a column is the commonest label of its windows."""
    letters = _letters(labels)
    lines = []
    for name, rows in _streams(journal).items():
        columns = min(_TIMELINE_COLUMNS, len(rows))
        bins: list[list[dict[str, Any]]] = [[] for _ in range(columns)]
        for i, row in enumerate(rows):
            bins[i * columns // len(rows)].append(row)
        true = [_commonest(b, "truth") for b in bins]
        given = [_commonest(b, "label") for b in bins]
        lines += [
            f"{name}",
            "  true   " + "".join(letters.get(t or "", ".") for t in true),
            "  given  "
            + "".join(_mark(letters.get(g or "", "."), t, g, colour) for t, g in zip(true, given, strict=True)),
        ]
    key = "  ".join(f"{letter} {label}" for label, letter in letters.items())
    return [*lines, f"  {key}  . between two exercises"]


def _streams(journal: Path) -> dict[str, list[dict[str, Any]]]:
    """A journal's windows by stream, in order."""
    streams: dict[str, list[dict[str, Any]]] = {}
    for line in journal.read_bytes().splitlines():
        row = msgspec.json.decode(line)
        if row["type"] == "window":
            streams.setdefault(row["stream"], []).append(row)
    return streams


def agreement(fp32: Path, int8: Path, calibrated_on: str) -> list[str]:
    """Two journals of the same recording beside each other: accuracy of each, and windows with the same label."""
    mine, other, rows = _streams(fp32), _streams(int8), []
    for name, windows in mine.items():
        pairs = list(zip(windows, other[name], strict=True))
        scored = [(a, b) for a, b in pairs if a.get("truth") is not None]
        what = "its ranges are from here" if name == calibrated_on else "new to it"
        rows.append(
            (
                f"{name}, {what}",
                len(pairs),
                *(_share([pair[i]["label"] == pair[i]["truth"] for pair in scored]) for i in range(2)),
                _share([a["label"] == b["label"] for a, b in pairs]),
            )
        )
    return table(rows, header=("", "windows", "FP32", "INT8", "same label"))


def _share(hits: list[bool]) -> str:
    return f"{sum(hits) / len(hits):.1%}" if hits else "-"


def _letters(labels: list[str]) -> dict[str, str]:
    """A letter for each label: the first of its own that is still free."""
    taken: dict[str, str] = {}
    for label in labels:
        free = [c for c in label.upper() + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c.isalnum() and c not in taken.values()]
        taken[label] = free[0] if free else "?"
    return taken


def _commonest(rows: list[dict[str, Any]], key: str) -> str | None:
    found = Counter(row[key] for row in rows if row.get(key) is not None)
    return found.most_common(1)[0][0] if found else None


def _mark(letter: str, true: str | None, given: str | None, colour: bool) -> str:
    """A wrong column is red on a terminal, small in a pipe."""
    if true is None or true == given:
        return letter
    return f"\x1b[1;31m{letter}\x1b[0m" if colour else letter.lower()


def step_text(step: Step) -> list[str]:
    """A step as it is done: what was run, and the one thing to know of it."""
    report, windows = step.report, count(step.report.get("windows", 0), "window")
    if step.name == "export":
        parity, blocks = report["data_parity"], len(report["blocks"])
        said = (
            f"{blocks} attention blocks; logits within {parity['relative']:.0e} of PyTorch's (part of the logit scale)"
        )
    elif step.name == "verify":
        said = f"{report['windows']} golden windows reproduced within {report['relative']:.0e} of the logit scale"
    elif step.name == "calibrate":
        found = report["targets"]["onnxruntime"]
        said = (
            f"{found['int8_layers']} of {len(found['layers'])} layers in INT8, {found['int8_share']:.1%} of the "
            f"multiply-adds; ranges from {_CALIBRATED_ON} alone"
        )
    elif step.name == "real time":
        said = f"{windows}, {report['latency']['misses']} missed the deadline; drained on SIGTERM"
    else:
        said = f"{windows} in {report['elapsed_s']:.2f} s, {report['peak_rss_mb']:.0f} MB resident"
    return [f"{step.name} ({step.seconds:.1f} s)", f"  $ {step.line}", f"  {said}"]


def summary_text(steps: list[Step], folder: Path, *, colour: bool) -> list[str]:
    """What a person sees at the end: the timeline, accuracy, latency, and where the files are."""
    reports = {step.name: step.report for step in steps}
    score, (journal, journal_int8) = reports["replay"]["score"], (folder / name for name in _JOURNALS)
    return [
        "",
        *timeline(journal, score["labels"], colour=colour),
        "",
        f"accuracy {score['accuracy']:.1%}, macro F1 {score['macro_f1']:.3f} on {score['windows']} labelled windows",
        "",
        "accuracy in FP32 and in INT8, and how many windows get the same label",
        *agreement(journal, journal_int8, _CALIBRATED_ON),
        "",
        "latency in us, one thread",
        *table(_latency_rows(reports), header=("", *_QUANTILES)),
        "",
        "files",
        *table([(f"{folder / name}", what) for name, what in (_INPUTS | _RESULTS).items()]),
    ]


_INPUTS = {
    "watch.safetensors": "the trained checkpoint",
    "watch.toml": "its contract",
    "watch_tiny.npz": "the recording: two people, seven shoulder exercises each",
}
_RESULTS = {
    "watch.onnx": "the model file with its ranges: open it in Netron, or with sattn inspect",
    "decisions.jsonl": "the journal: a JSON line for each window",
    "decisions_int8.jsonl": "the same in INT8",
}
_JOURNALS = ("decisions.jsonl", "decisions_int8.jsonl")


def _latency_rows(reports: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = [
        ("inference alone in FP32, full speed", reports["replay"]["latency"]["stages_us"]["infer"]),
        ("inference alone in INT8, full speed", reports["replay in INT8"]["latency"]["stages_us"]["infer"]),
        ("last sample to decision, real speed", reports["real time"]["latency"]["total_us"]),
    ]
    return [(name, *(f"{summary[q]:.0f}" for q in _QUANTILES)) for name, summary in rows]


def _demo(
    out: Annotated[Path, typer.Option(help="Folder for the files it makes.")] = Path("sattn-demo"),
    json_output: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Exports, verifies, runs and calibrates the shipped network on the shipped recording, in under a minute."""
    missing = [name for name in ("torch", "onnxscript", "safetensors") if not _installed(name)]
    if missing:
        todo = "install it: pip install 'sattn-edge[export]'"
        raise UnavailableError("sattn demo", f"needs {', '.join(missing)} for its export step", todo=todo)
    steps = []
    for step in run_demo(out):
        steps.append(step)
        if not json_output:
            print_lines(step_text(step))
    if json_output:
        made = {name: str(out / name) for name in (_INPUTS | _RESULTS)}
        print_json({"files": made, "steps": [{"name": s.name, "line": s.line, **s.report} for s in steps]})
    else:
        print_lines(summary_text(steps, out, colour=in_colour(sys.stdout)))


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def demo_main(args: list[str] | None = None, prog: str = "sattn demo") -> None:
    """Entry point of `sattn demo`."""
    run_app(new_app(_demo), prog, args)
