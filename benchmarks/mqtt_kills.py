"""`sattn-run --resume` on numbered MQTT messages, killed and its broker restarted: each window once, and the right one.

    python benchmarks/mqtt_kills.py [--messages 20000] [--kills 4] [--restarts 4] [--careless WAY] [--json]

A publisher sends one sample a message with QoS 1. `sattn-run` decides on windows of 8 samples every 4 and journals
them; it is killed with SIGKILL at moments drawn at random and started again with `--resume`; mosquitto is restarted
cleanly.
In the end the journal must hold every window that a run over all samples in one piece has: each once, in order, with
the same numbers and the same logits, and no gap. Exit 1 otherwise.

A message is lost that is in no window though the last window ends behind it, doubled that is in more windows than in a
run in one piece. `--careless` is the control, a run that must fail: one that `forgets` starts again without `--resume`,
a `hasty` one acknowledges what it is given before it has decided on it.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from sattn_edge.engine import EngineOptions, open_engine
from sattn_edge.model_file import load_model_file
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import SourceOptions
from sattn_runtime.stream import Stream
from tests.helpers_model import save_model
from tests.helpers_run import command_line, environment
from tests.sattn_runtime.sources.helpers_mqtt import Broker, Publisher

WINDOW, HOP = 8, 4
_STALLED_S, _SETTLED_S = 30.0, 8.0
_BURST, _PAUSE_S = 50, 0.02  # messages at once, and the time between: a broker that is away has something to miss
CARELESS = ("forgets", "hasty")
_HASTY = """
from sattn_runtime.sources.mqtt import MqttSource
MqttSource._hold = lambda self, held: self._send_acknowledgement(held.deliveries)
"""
_WORTH = 1e-5  # of the largest logit: another batch, another order of sums


@dataclass(frozen=True)
class Result:
    """What became of the messages and the windows."""

    messages: int
    windows: int
    kills: int
    restarts: int
    lost: int
    doubled: int
    wrong: int
    gaps: int
    in_order: bool
    seconds: float

    @property
    def good(self) -> bool:
        """Nothing lost, doubled, wrong, out of order or torn."""
        return self.in_order and not (self.lost or self.doubled or self.wrong or self.gaps)


@dataclass(frozen=True)
class Plan:
    """How many of what."""

    messages: int
    kills: int
    restarts: int
    careless: str | None = None
    seed: int = 0


def sample(number: int) -> list[float]:
    """The values of a message; those of any two differ."""
    return [number % 257 / 128 - 1, number % 251 / 125 - 1]


def rows_of(journal: Path) -> list[dict[str, Any]]:
    """Whole lines of a journal that may be written at this moment."""
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]


class _Trial:
    """One run of the plan."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._journal = plan, folder / "journal.jsonl"
        self._model = save_model(folder, window=WINDOW, hop=HOP)
        self._broker = Broker(folder / "broker")
        self._publisher = Publisher(self._broker)
        self._kills = self._restarts = 0
        self._lines, self._read = 0, 0
        drawn = random.Random(plan.seed)  # noqa: S311 - where to kill is no secret
        windows = self._expected()
        self._kill_at = [self._moment(drawn, windows, i, plan.kills) for i in range(plan.kills)]
        self._restart_at = [self._moment(drawn, windows, i, plan.restarts) for i in range(plan.restarts)]
        # The broker keeps messages for those it knows.
        contract = load_model_file(self._model).contract
        open_source(self._uri(), contract, SourceOptions(None, WINDOW, HOP)).close()
        self._run = self._start()

    def _uri(self) -> str:
        return self._broker.uri("?client=kills")

    def _expected(self) -> int:
        return (self._plan.messages - WINDOW) // HOP + 1

    @staticmethod
    def _moment(drawn: random.Random, windows: int, turn: int, turns: int) -> int:
        return round(windows * (turn + drawn.uniform(0.2, 0.8)) / turns)

    def _start(self) -> subprocess.Popen[bytes]:
        resume = [] if self._plan.careless == "forgets" else ["--resume"]
        command = command_line("sattn-run", self._model, self._uri(), "--journal", self._journal, *resume)
        if self._plan.careless == "hasty":
            command[2] = _HASTY + command[2]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, stdin=quiet, stdout=quiet, env=environment())

    def run(self) -> Result:
        began = time.monotonic()
        sender = threading.Thread(target=self._send, daemon=True)
        sender.start()
        try:
            self._watch()
            self._run.send_signal(signal.SIGTERM)
            self._run.wait(20)
        finally:
            self._run.kill()
            self._run.wait()
            sender.join()
            self._publisher.close()
            self._broker.stop()
        return self._judge(time.monotonic() - began)

    def _send(self) -> None:
        for number in range(self._plan.messages):
            self._publisher.send({"seq": number, "samples": [sample(number)]})
            if number % _BURST == 0:
                time.sleep(_PAUSE_S)

    def _count(self) -> int:
        """Lines of the journal so far, read from where the last look ended."""
        if self._journal.exists():
            with self._journal.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            self._lines += new.count(b'{"type":"window"')
            self._read += len(new)
        return self._lines

    def _watch(self) -> None:
        """Kills and restarts at their moments, until all is there or nothing more comes."""
        count, moved = 0, time.monotonic()
        while time.monotonic() - moved < _STALLED_S:
            now = self._count()
            if now != count:
                count, moved = now, time.monotonic()
            self._disturb(count)
            if count >= self._expected() or (self._plan.careless and time.monotonic() - moved > _SETTLED_S):
                time.sleep(1.0)  # for what should not come
                return
            time.sleep(0.005)

    def _disturb(self, count: int) -> None:
        if self._restarts < len(self._restart_at) and count >= self._restart_at[self._restarts]:
            self._broker.stop()
            self._broker.start()
            self._restarts += 1
        if self._kills < len(self._kill_at) and count >= self._kill_at[self._kills]:
            self._run.send_signal(signal.SIGKILL)
            self._run.wait()
            self._kills += 1
            self._run = self._start()
        elif self._run.poll() is not None:
            raise SystemExit(f"sattn-run ended with {self._run.returncode}")

    def _judge(self, seconds: float) -> Result:
        rows = rows_of(self._journal)
        found = [row for row in rows if row["type"] == "window"]
        counts = Counter(number for row in found for number in range(row["sequence"], row["sequence"] + WINDOW))
        expected = self._one_piece()
        firsts = range(0, len(expected) * HOP, HOP)
        usual = Counter(number for first in firsts for number in range(first, first + WINDOW))
        wrong = sum(not _same(row, expected) for row in found)
        return Result(
            messages=self._plan.messages,
            windows=len(found),
            kills=self._kills,
            restarts=self._restarts,
            lost=sum(number not in counts for number in usual),
            doubled=sum(max(0, many - usual[number]) for number, many in counts.items()),
            wrong=wrong,
            gaps=sum(row["type"] == "gap" for row in rows),
            in_order=[row["window"] for row in found] == list(range(len(expected))),
            seconds=round(seconds, 1),
        )

    def _one_piece(self) -> list[list[float]]:
        """The logits of every window of all samples, decided in one go."""
        engine = open_engine(load_model_file(self._model), "onnxruntime", EngineOptions())
        samples = np.array([sample(number) for number in range(self._plan.messages)], np.float32)
        return [decision.logits or [] for decision in Stream(engine).push(samples)]


def _same(row: dict[str, Any], expected: list[list[float]]) -> bool:
    """Whether a line is that of the window that its numbers say."""
    window = row["window"]
    if not 0 <= window < len(expected) or (row["first_sample"], row["sequence"]) != (window * HOP, window * HOP):
        return False
    scale = max(map(abs, expected[window]))
    return all(abs(a - b) <= _WORTH * scale for a, b in zip(row["logits"], expected[window], strict=True))


def trial(plan: Plan, folder: Path) -> Result:
    """Carries the plan out."""
    return _Trial(plan, folder).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, runs, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--careless", choices=CARELESS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    plan = Plan(given.messages, given.kills, given.restarts, given.careless, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        result = trial(plan, Path(folder))
    if given.json:
        print(json.dumps(asdict(result)))
    else:
        print(
            f"{result.messages:,} messages, {result.kills} kill -9 of sattn-run, {result.restarts} broker restarts: "
            f"{result.windows:,} windows, {result.lost} messages lost, {result.doubled} doubled, "
            f"{result.wrong} windows wrong, {result.gaps} gaps ({result.seconds:g} s)"
        )
    done = (result.kills, result.restarts) == (plan.kills, plan.restarts)
    return 0 if done and result.good else 1


if __name__ == "__main__":
    sys.exit(main())
