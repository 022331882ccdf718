"""24 kinds of fault in a stream, each told in full: what was sent, and what an observer of the sensor would say of it.

A sensor's samples carry their true number as their first value. A fault gives the packets that arrive, in the order in
which they arrive. `oracle.py` says from those alone, by plain counting, what a stream may do with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

RATE = 50.0
MODAL = 3


@dataclass
class Packet:
    """Samples [n, modal] as they arrive, with numbers and stamps where the source has them. `lost` came before them."""

    samples: np.ndarray
    sequence: np.ndarray | None
    stamps: np.ndarray | None
    lost: int = 0


@dataclass
class Case:
    """What arrives, and what is expected of it beyond the oracle's general rules."""

    packets: list[Packet]
    refused: set[int] = field(default_factory=set)  # packets that must raise
    expect: tuple[str, ...] = ()  # kinds of event that must be told
    bad: set[int] = field(default_factory=set)  # true numbers of samples whose values are not finite
    breaks: set[int] = field(default_factory=set)  # a break of unknown length lies before these true numbers


class Sensor:
    """A healthy recording, and tools to spoil it."""

    def __init__(self, rng: np.random.Generator, *, numbered: bool, stamped: bool) -> None:
        self.rng, self.numbered, self.stamped = rng, numbered, stamped
        self.count = int(rng.integers(340, 700))
        self.rows = rng.normal(size=(self.count, MODAL)).astype(np.float32)
        self.rows[:, 0] = np.arange(self.count)
        self.first = int(rng.integers(0, 1000))
        self.start_s = float(rng.uniform(0, 1e6))
        self.period = 1 / RATE

    def sequence(self) -> np.ndarray:
        return self.first + np.arange(self.count)

    def stamps(self) -> np.ndarray:
        return self.start_s + np.arange(self.count) * self.period

    def send(self, order: np.ndarray, *, sizes: int = 40, rows=None, sequence=None, stamps=None) -> list[Packet]:
        """Packets of these samples, in this order, cut at random."""
        rows = self.rows[order] if rows is None else rows
        sequence = self.sequence()[order] if sequence is None else sequence
        stamps = self.stamps()[order] if stamps is None else stamps
        packets, at = [], 0
        while at < len(rows):
            end = at + int(self.rng.integers(1, sizes))
            packets.append(
                Packet(
                    rows[at:end],
                    sequence[at:end] if self.numbered else None,
                    stamps[at:end] if self.stamped else None,
                )
            )
            at = end
        return packets

    def somewhere(self, margin: int = 60) -> int:
        return int(self.rng.integers(margin, self.count - margin))


Fault = Callable[[Sensor], Case]


def drop(s: Sensor) -> Case:
    keep = s.rng.random(s.count) > 0.02
    keep[0] = True
    return Case(s.send(np.flatnonzero(keep)))


def burst(s: Sensor) -> Case:
    at, length = s.somewhere(), int(s.rng.integers(2, 50))
    return Case(s.send(np.delete(np.arange(s.count), np.arange(at, at + length))))


def duplicate(s: Sensor) -> Case:
    order = np.arange(s.count)
    at = np.sort(s.rng.choice(np.arange(40, s.count - 1), 5, replace=False))
    return Case(s.send(np.insert(order, at + 1, at)), expect=("duplicate",))


def duplicate_packet(s: Sensor) -> Case:
    packets = s.send(np.arange(s.count))
    at = int(s.rng.integers(len(packets) // 2, len(packets)))
    return Case([*packets[: at + 1], packets[at], *packets[at + 1 :]], expect=("duplicate",))


def reorder_within(s: Sensor) -> Case:
    order = np.arange(s.count)
    for at in s.rng.choice(np.arange(20, s.count - 20, 12), 8, replace=False):
        far = int(s.rng.integers(1, 5))
        order[at : at + far + 1] = np.roll(order[at : at + far + 1], -1)
    return Case(s.send(order), expect=("reordered",))


def reorder_beyond(s: Sensor) -> Case:
    at, far = s.somewhere(), int(s.rng.integers(6, 14))
    order = np.arange(s.count)
    order[at : at + far + 1] = np.roll(order[at : at + far + 1], -1)
    return Case(s.send(order), expect=("late",))


def late(s: Sensor) -> Case:
    at, far = s.somewhere(), 12
    order = np.delete(np.arange(s.count), [at, at + 1])
    return Case(s.send(np.insert(order, at + far, [at, at + 1])), expect=("late",))


def empty_chunk(s: Sensor) -> Case:
    packets = s.send(np.arange(s.count))
    hollow = Packet(
        np.zeros((0, MODAL), np.float32),
        np.zeros(0, np.int64) if s.numbered else None,
        np.zeros(0) if s.stamped else None,
    )
    at = int(s.rng.integers(0, len(packets)))
    return Case([*packets[:at], hollow, *packets[at:]])


def partial_row(s: Sensor) -> Case:
    packets = s.send(np.arange(s.count))
    at = int(s.rng.integers(1, len(packets)))
    torn = Packet(np.ones(MODAL - 1, np.float32), None, None)
    return Case([*packets[:at], torn, *packets[at:]], refused={at})


def wrong_channels(s: Sensor) -> Case:
    packets = s.send(np.arange(s.count))
    at = int(s.rng.integers(1, len(packets)))
    wide = Packet(np.ones((4, MODAL + 1), np.float32), None, None)
    return Case([*packets[:at], wide, *packets[at:]], refused={at})


def _spoil(s: Sensor, value: float) -> Case:
    at = np.sort(s.rng.choice(s.count, 4, replace=False))
    s.rows[at, 1] = value
    return Case(s.send(np.arange(s.count)), bad=set(at.tolist()))


def nan(s: Sensor) -> Case:
    return _spoil(s, np.nan)


def inf(s: Sensor) -> Case:
    return _spoil(s, np.inf)


def stuck(s: Sensor) -> Case:
    at = s.somewhere()
    s.rows[at : at + 50, 1] = s.rows[at, 1]
    return Case(s.send(np.arange(s.count)))


def saturated(s: Sensor) -> Case:
    s.rows[:, 1] = np.clip(s.rows[:, 1], -0.5, 0.5)
    return Case(s.send(np.arange(s.count)))


def spike(s: Sensor) -> Case:
    s.rows[s.somewhere(), 1] = 1e6
    return Case(s.send(np.arange(s.count)))


def offset(s: Sensor) -> Case:
    s.rows[s.somewhere() :, 1:] += 100
    return Case(s.send(np.arange(s.count)))


def rate_x2(s: Sensor) -> Case:
    s.period /= 2
    return Case(s.send(np.arange(s.count)))


def drift(s: Sensor) -> Case:
    s.period *= 1.004
    return Case(s.send(np.arange(s.count)))


def _jump(s: Sensor, seconds: float) -> Case:
    stamps, at = s.stamps(), s.somewhere()
    stamps[at:] += seconds
    return Case(s.send(np.arange(s.count), stamps=stamps), breaks={at})


def time_backward(s: Sensor) -> Case:
    return _jump(s, -float(s.rng.uniform(50, 1000)))


def time_forward(s: Sensor) -> Case:
    return _jump(s, float(s.rng.uniform(5, 1000)))


def frozen(s: Sensor) -> Case:
    stamps, at = s.stamps(), s.somewhere(160)
    stamps[at : at + 120] = stamps[at]
    return Case(s.send(np.arange(s.count), stamps=stamps), expect=("frozen",))


def source_restart(s: Sensor) -> Case:
    at = s.somewhere()
    sequence, stamps = s.sequence(), s.stamps()
    sequence[at:] = np.arange(s.count - at)
    stamps[at:] = 5.0 + np.arange(s.count - at) * s.period
    return Case(s.send(np.arange(s.count), sequence=sequence, stamps=stamps), breaks={at})


def hang(s: Sensor) -> Case:
    """The source says nothing for a while and then sends what it could keep."""
    at, length = s.somewhere(), int(s.rng.integers(1, 60))
    order = np.delete(np.arange(s.count), np.arange(at, at + length))
    return Case(s.send(order, sizes=80))


def slow_consumer(s: Sensor) -> Case:
    """A full queue drops whole packets, and says how many samples."""
    packets = s.send(np.arange(s.count))
    at = int(s.rng.integers(1, len(packets) - 2))
    packets[at + 1].lost = len(packets[at].samples)
    return Case([*packets[:at], *packets[at + 1 :]], expect=("overload",))


FAULTS: dict[str, Fault] = {
    name: fault
    for name, fault in list(globals().items())
    if callable(fault) and getattr(fault, "__module__", "") == __name__ and name.islower() and name[0] != "_"
}
# What a source can tell of its samples. A fault of the clock is drawn where there are stamps.
NEEDS_STAMPS = {"rate_x2", "drift", "time_backward", "time_forward", "frozen"}
MODES = ("numbered", "stamped", "both")


def draw(name: str, mode: str, seed: int) -> Case:
    """The case of a fault, a mode and a seed."""
    if name in NEEDS_STAMPS and mode == "numbered":
        mode = "both"
    rng = np.random.default_rng([seed, sorted(FAULTS).index(name), MODES.index(mode)])
    return FAULTS[name](Sensor(rng, numbered=mode != "stamped", stamped=mode != "numbered"))
