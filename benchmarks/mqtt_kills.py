"""Numbered messages through a real broker, their reader killed and the broker restarted: none lost, none doubled.

    python benchmarks/mqtt_kills.py [--messages 20000] [--kills 4] [--restarts 4] [--careless WAY] [--json]

A publisher sends with QoS 1; a consumer process writes the number of every sample it is given into a journal, then
acknowledges. Kills are SIGKILL at a random moment, right between the journal and the acknowledgement, or right before
the journal, in turn; restarts of mosquitto are clean. Whoever starts the consumer again lets it go on after the last
number in its journal. Exit 1 if a number is missing or stands twice.

`--careless` is the control, a consumer that must fail: `forgets` does not say where its journal ends, so what was not
acknowledged is doubled; `hasty` acknowledges before it writes, so a kill in between loses. Caught by this: an
acknowledgement sent too early or on the wrong connection, a redelivery that is taken for new, a session that is lost.
"""

from __future__ import annotations

import argparse
import json
import os
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from sattn_edge.contract import Channel, Contract
from sattn_runtime.sources import open_source
from sattn_runtime.sources.base import Chunk, SourceOptions
from sattn_runtime.sources.mqtt import MqttSource
from tests.sattn_runtime.sources.helpers_mqtt import TOPIC, Broker, Publisher

SCRIPT = Path(__file__).resolve()
CONTRACT = Contract(50.0, 8, 4, ("a", "b"), (Channel("c0"), Channel("c1")))
CARELESS = ("forgets", "hasty")
PLACES = ("anywhere", "written", "taken")
_STALLED_S = 30.0
_BURST, _PAUSE_S = 50, 0.02  # messages at once, and the time between: a broker that is away has something to miss


@dataclass(frozen=True)
class Result:
    """What became of the messages."""

    messages: int
    kills: int
    restarts: int
    lost: int
    doubled: int
    in_order: bool
    seconds: float


@dataclass(frozen=True)
class Plan:
    """How many of what, and the control's way of failing."""

    messages: int
    kills: int
    restarts: int
    careless: str | None = None
    seed: int = 0


def journalled(journal: Path) -> list[int]:
    """The numbers in the journal; half a line at its end is none."""
    return [int(line) for line in journal.read_text().split("\n")[:-1]] if journal.exists() else []


def consume(uri: str, journal: Path, careless: str | None, die_at: int, place: str) -> None:
    """The consumer: for ever, or until the journal has `die_at` numbers."""
    found = journalled(journal)
    after = max(found, default=None) if careless != "forgets" else None
    source = open_source(uri, CONTRACT, SourceOptions(None, 8, 4, 60.0, {} if after is None else {TOPIC: after}))
    assert isinstance(source, MqttSource)
    written = len(found)
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        item = source.read(0.1)
        if not isinstance(item, Chunk) or item.sequence is None:
            continue
        if careless == "hasty":
            source.acknowledge(item)
        last = 0 <= die_at <= written + len(item.samples)
        if last and place == "taken":
            time.sleep(0.3 if careless == "hasty" else 0.0)  # the acknowledgement is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(descriptor, "".join(f"{number}\n" for number in item.sequence).encode())
        written += len(item.samples)
        if last and place == "written":
            os.kill(os.getpid(), signal.SIGKILL)
        source.acknowledge(item)


class _Trial:
    """One run of the plan."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._journal = plan, folder / "journal"
        self._broker = Broker(folder / "broker")
        self._publisher = Publisher(self._broker)
        self._kills = self._restarts = 0
        drawn = random.Random(plan.seed)  # noqa: S311 - where to kill is no secret
        self._kill_at = [self._moment(drawn, i, plan.kills) for i in range(plan.kills)]
        self._restart_at = [self._moment(drawn, i, plan.restarts) for i in range(plan.restarts)]
        # The broker keeps messages for those it knows.
        source = open_source(self._uri(), CONTRACT, SourceOptions(None, 8, 4))
        source.close()
        self._consumer = self._start()

    def _uri(self) -> str:
        return self._broker.uri("?client=kills")

    def _moment(self, drawn: random.Random, turn: int, turns: int) -> int:
        return round(self._plan.messages * (turn + drawn.uniform(0.2, 0.8)) / turns)

    def _place(self) -> str:
        if self._plan.careless:
            return "written" if self._plan.careless == "forgets" else "taken"
        return PLACES[self._kills % len(PLACES)]

    def _start(self) -> subprocess.Popen[bytes]:
        """A consumer; one that kills itself does so at the next moment for it."""
        place = self._place()
        own = self._kills < len(self._kill_at) and place != "anywhere"
        at = self._kill_at[self._kills] if own else -1
        arguments = [self._uri(), str(self._journal), str(self._plan.careless), str(at), place]
        return subprocess.Popen([sys.executable, str(SCRIPT), "--consume", *arguments])

    def run(self) -> Result:
        began = time.monotonic()
        sender = threading.Thread(target=self._send, daemon=True)
        sender.start()
        try:
            self._watch()
        finally:
            self._consumer.kill()
            self._consumer.wait()
            sender.join()
            self._publisher.close()
            self._broker.stop()
        return self._judge(time.monotonic() - began)

    def _send(self) -> None:
        for number in range(self._plan.messages):
            self._publisher.send({"seq": number, "samples": [[number, -number]]})
            if number % _BURST == 0:
                time.sleep(_PAUSE_S)

    def _watch(self) -> None:
        """Kills and restarts at their moments, until all is there or nothing more comes."""
        count, moved = 0, time.monotonic()
        while time.monotonic() - moved < _STALLED_S:
            now = len(journalled(self._journal))
            if now != count:
                count, moved = now, time.monotonic()
            self._disturb(count)
            if count >= self._plan.messages and not self._plan.careless:
                time.sleep(1.0)  # for what should not come
                return
            if self._plan.careless and count and time.monotonic() - moved > 3.0:
                return
            time.sleep(0.02)

    def _disturb(self, count: int) -> None:
        if self._restarts < len(self._restart_at) and count >= self._restart_at[self._restarts]:
            self._broker.stop()
            self._broker.start()
            self._restarts += 1
        due = self._kills < len(self._kill_at) and count >= self._kill_at[self._kills]
        if due and self._place() == "anywhere":
            self._consumer.send_signal(signal.SIGKILL)
            self._consumer.wait()
        if self._consumer.poll() == -signal.SIGKILL:
            self._kills += 1
            self._consumer = self._start()
        elif self._consumer.poll() is not None:
            raise SystemExit(f"the consumer ended with {self._consumer.returncode}")

    def _judge(self, seconds: float) -> Result:
        numbers = journalled(self._journal)
        counts = Counter(numbers)
        lost = sum(number not in counts for number in range(self._plan.messages))
        doubled = sum(many - 1 for many in counts.values())
        return Result(
            self._plan.messages,
            self._kills,
            self._restarts,
            lost,
            doubled,
            numbers == sorted(numbers),
            round(seconds, 1),
        )


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
    parser.add_argument("--consume", nargs=5, metavar=("URI", "JOURNAL", "CARELESS", "DIE_AT", "PLACE"))
    given = parser.parse_args(arguments)
    if given.consume:
        uri, journal, careless, die_at, place = given.consume
        consume(uri, Path(journal), None if careless == "None" else careless, int(die_at), place)
    plan = Plan(given.messages, given.kills, given.restarts, given.careless, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        result = trial(plan, Path(folder))
    if given.json:
        print(json.dumps(asdict(result)))
    else:
        print(
            f"{result.messages:,} messages, {result.kills} kill -9 of the consumer, {result.restarts} broker restarts: "
            f"{result.lost} lost, {result.doubled} doubled ({result.seconds:g} s)"
        )
    done = (result.kills, result.restarts) == (plan.kills, plan.restarts)
    return 0 if done and not result.lost and not result.doubled else 1


if __name__ == "__main__":
    sys.exit(main())
