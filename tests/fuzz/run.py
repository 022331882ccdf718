"""Mutation fuzzing of the way a model file takes: the gate, then ONNX Runtime, then one window.

    python tests/fuzz/run.py --count 20000 --seed 0 [--model FILE] [--foreign] [--no-gate] [--json]

A worker process makes the mutants and does what a loader does; when it dies or hangs, that is the mutant's
doing, and a new worker goes on with the next. Exit 1 if the gate let one through that crashed or hung, if it
raised anything but its own error, or if a file was written anywhere; such mutants are kept.

Caught by this: a new rule, operator or onnx release that lets a file through which a runtime dies of.
`--no-gate` is the control: without the gate, mutants do crash ONNX Runtime.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

SCRIPT = Path(__file__).resolve()
ROOT = SCRIPT.parents[2]
sys.path.insert(0, str(ROOT))

from tests.fuzz.mutate import MUTATORS, mutant, mutator_of

MEMORY_BYTES = 6 * 2**30
OUTCOMES = ("refused", "runtime", "ran", "bug", "crash", "timeout")
"""Refused by the gate, by the runtime, ran; another exception of the gate, a dead worker, a hung one."""


@dataclass(frozen=True)
class Job:
    """What to fuzz: `count` mutants of one model from `start`, each for at most `limit_s` seconds."""

    model: Path
    count: int
    seed: int
    gate: bool = True
    foreign: bool = False
    only: str = ""
    limit_s: float = 10.0
    keep: Path | None = None
    worker: Path = SCRIPT


@dataclass
class Result:
    """Outcomes by mutator, and each mutant that is somebody's fault, with what it did."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in MUTATORS})
    faults: list[dict[str, str | int]] = field(default_factory=list)
    slowest_s: float = 0.0
    seconds: float = 0.0
    written: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> Counter[str]:
        return sum(self.counts.values(), Counter[str]())

    @property
    def ok(self) -> bool:
        return not self.faults and not self.written


# -- the worker ------------------------------------------------------------------------------------------


def work(job: Job, start: int) -> None:
    """Runs the mutants from `start` on, one line `number outcome text` each on the real standard output."""
    import resource

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints
    data = job.model.read_bytes()
    try_one = _loader(data, job)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", file=out)
    for number in range(start, job.count):
        outcome, text = try_one(mutant(data, job.seed, number, job.only)[1])
        print(number, outcome, json.dumps(text[:300]), file=out)


def _loader(good: bytes, job: Job):
    import numpy as np
    import onnx
    import onnxruntime

    from sattn_edge.errors import ModelFileError
    from sattn_edge.gate import admit

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    dims = onnx.ModelProto.FromString(good).graph.input[0].type.tensor_type.shape.dim
    window = np.zeros([d.dim_value or 1 for d in dims], np.float32)

    def try_one(data: bytes) -> tuple[str, str]:
        if job.gate:
            try:
                admit(data, "mutant.onnx", foreign=job.foreign)
            except ModelFileError as error:
                return "refused", str(error)
            except Exception as error:  # noqa: BLE001 - finding these is the purpose
                return "bug", f"{type(error).__name__}: {error}"
        try:
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            session.run(None, {session.get_inputs()[0].name: window})
        except Exception as error:  # noqa: BLE001 - onnxruntime raises what it likes
            return "runtime", f"{type(error).__name__}: {error}"
        return "ran", ""

    return try_one


# -- the parent ------------------------------------------------------------------------------------------


def fuzz(job: Job) -> Result:
    """Runs a job in workers, each in the same empty folder and with the same copy of the model."""
    began = time.monotonic()
    result = Result(versions=_versions())
    with tempfile.TemporaryDirectory(prefix="sattn-fuzz-") as folder:
        empty, beside = Path(folder, "empty"), Path(folder, "beside")
        empty.mkdir()
        beside.mkdir()
        job = replace(job, model=Path(shutil.copy(job.model, beside / "model.onnx")))
        before = _listing(Path(folder))
        number = 0
        while number < job.count:
            number = _one_worker(job, number, empty, result)
        result.written = sorted(_listing(Path(folder)) ^ before)
    result.seconds = time.monotonic() - began
    return result


def _listing(folder: Path) -> set[str]:
    stats = {path: path.lstat() for path in folder.rglob("*")}
    return {f"{path} ({stat.st_size} bytes, {stat.st_mtime_ns})" for path, stat in stats.items()}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": sys.version.split()[0]} | {name: version(name) for name in ("onnx", "onnxruntime", "protobuf")}


def _one_worker(job: Job, start: int, folder: Path, result: Result) -> int:
    """Lets one worker go on until it ends or has to be ended; returns the number to go on with."""
    command = [sys.executable, str(job.worker), "--worker", str(start)]
    command += ["--count", str(job.count), "--seed", str(job.seed), "--model", str(job.model.resolve())]
    command += ["--no-gate"] * (not job.gate) + ["--foreign"] * job.foreign + ["--only", job.only] * bool(job.only)
    # Home and temporary folder are the empty one too, so that nothing can be written out of sight.
    surroundings = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "TMPDIR": str(folder)}
    # ONNX Runtime from 1.29 on keeps and sends usage data on Linux unless told not to.
    surroundings |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, cwd=folder, env=surroundings, stdout=subprocess.PIPE, stderr=errors) as worker,
    ):
        number, hung = _follow(worker, job, start, result)
        worker.kill()
        code = worker.wait()
        if number < job.count:
            errors.seek(0)
            tail = errors.read()[-300:].decode(errors="replace").strip()
            if number < start:
                raise RuntimeError(f"the worker does not start: {tail}")
            _blame(job, number, "timeout" if hung else "crash", f"ended with {code}. {tail}", result)
            return number + 1
    return number


def _follow(worker: subprocess.Popen[bytes], job: Job, start: int, result: Result) -> tuple[int, bool]:
    """Reads a worker's lines. Returns the mutant it was at when it ended, and whether it hung there."""
    assert worker.stdout is not None
    number, buffer, since = start - 1, b"", time.monotonic()
    while True:
        limit = job.limit_s if number >= start else 60.0
        if not select.select([worker.stdout], [], [], limit)[0]:
            return number, True
        chunk = os.read(worker.stdout.fileno(), 65536)
        if not chunk:
            return number, False
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            if line == b"ready":
                number = start
                continue
            at, outcome, text = line.decode().split(" ", 2)
            _count(job, int(at), outcome, json.loads(text), result)
            number = int(at) + 1
        now = time.monotonic()
        result.slowest_s = max(result.slowest_s, (now - since) / max(1, len(lines)) if number > start else 0.0)
        since = now


def _count(job: Job, number: int, outcome: str, text: str, result: Result) -> None:
    if outcome == "bug":
        _blame(job, number, outcome, text, result)
    else:
        result.counts[mutator_of(number, job.only)][outcome] += 1


def _blame(job: Job, number: int, outcome: str, text: str, result: Result) -> None:
    name, data = mutant(job.model.read_bytes(), job.seed, number, job.only)
    result.counts[name][outcome] += 1
    kept = ""
    if job.gate or job.keep:
        folder = job.keep or Path(tempfile.gettempdir()) / "sattn-fuzz-faults"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{outcome}-{job.seed}-{number}-{name}.onnx"
        path.write_bytes(data)
        kept = str(path)
    result.faults.append({"number": number, "mutator": name, "outcome": outcome, "text": text, "kept": kept})


# -- the command -----------------------------------------------------------------------------------------


def table(result: Result) -> str:
    """One line per mutator."""
    head = f"{'mutator':28}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)
    rows = [*result.counts.items(), ("all", result.total)]
    lines = [f"{name:28}" + "".join(f"{counts[o]:>9}" for o in OUTCOMES) for name, counts in rows]
    return "\n".join([head, *lines])


def report(job: Job, result: Result) -> str:
    """What a person reads."""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        table(result),
        f"{result.seconds:.0f} s, {1000 * result.seconds / max(1, job.count):.1f} ms a mutant; {versions}; "
        f"seed {job.seed}, {'gate on' if job.gate else 'NO gate'}{', foreign' * job.foreign}",
    ]
    lines += [f"{f['outcome']}: {f['mutator']} {f['number']} {f['kept']}: {f['text']}" for f in result.faults[:40]]
    lines += [f"written: {path}" for path in result.written]
    return "\n".join(lines)


def as_json(job: Job, result: Result) -> str:
    body = asdict(result) | {"counts": {name: dict(c) for name, c in result.counts.items()}}
    body |= {
        "total": dict(result.total),
        "ok": result.ok,
        "gate": job.gate,
        "count": job.count,
        "seed": job.seed,
    }
    return json.dumps(body, indent=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="an ONNX file; a small network of the test helpers if not given")
    parser.add_argument("--only", default="", choices=list(MUTATORS), metavar="MUTATOR", help="one mutator only")
    parser.add_argument("--foreign", action="store_true", help="the gate's rules for others' files")
    parser.add_argument("--no-gate", action="store_true", help="the control")
    parser.add_argument("--limit-s", type=float, default=10.0, help="seconds a mutant may take")
    parser.add_argument("--keep", type=Path, help="folder for the mutants that crashed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        model = args.model or built_in(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        rules = {"gate": not args.no_gate, "foreign": args.foreign, "only": args.only}
        job = Job(model, args.count, args.seed, limit_s=args.limit_s, keep=args.keep, **rules)
        if args.worker is not None:
            work(job, args.worker)
            return 0
        result = fuzz(job)
    print(as_json(job, result) if args.json else report(job, result))
    return 0 if result.ok else 1


def built_in(folder: Path, *, attention: bool = False) -> Path:
    """The test helpers' small network, written to a folder of its own. attention: it gives its gates."""
    from sattn_edge.passes import run_passes
    from sattn_edge.passes.expose_gates import ExposeGates
    from tests.helpers_onnx import make_model

    path = folder / "network.onnx"
    model, _ = run_passes(make_model(), [ExposeGates()] if attention else [])
    path.write_bytes(model.SerializeToString())
    return path


if __name__ == "__main__":
    sys.exit(main())
