"""Faults in streams: 24 kinds, each drawn again and again, judged by an oracle that shares no code with the runtime.

    python tests/fuzz/streams.py [--seeds 200] [--first 0] [--fault NAME]

Each case runs with numbered samples, with stamped ones and with both, under every gap policy, with and without
reordering. Exit 1 if a window was lost, doubled or glued in silence, a gap told with another length, or a sample not
accounted for. It would catch any slip in the sample clock, the ring's restarts or the filling.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

from sattn_edge.errors import UsageError
from sattn_runtime import ClockOptions, Stream, StreamOptions
from sattn_runtime.events import Gap
from sattn_runtime.sources.base import Chunk
from sattn_runtime.testing import FakeEngine
from tests.fuzz.faults import FAULTS, MODAL, MODES, RATE, Case, draw
from tests.fuzz.oracle import Rules, Seen, judge
from tests.helpers_data import make_contract

POLICIES = ("split", "hold", "interpolate")


def rules_of(seed: int, policy: str) -> Rules:
    """Window, hop and reordering of a seed."""
    rng = np.random.default_rng([seed, POLICIES.index(policy)])
    window = int(rng.integers(4, 40))
    return Rules(window, int(rng.integers(1, 50)), int(rng.choice([4, 4, 5])), policy, int(rng.integers(1, 12)))


def play(case: Case, rules: Rules, make: type[Stream] = Stream) -> Seen:
    """Runs a case through a stream."""
    names = tuple(f"c{i}" for i in range(MODAL))
    contract = make_contract(names, rate_hz=RATE, window=rules.window, hop=rules.hop)
    seen = Seen()

    def look(window: np.ndarray) -> list[float]:
        return [0.0, 1.0, 0.0]

    engine = FakeEngine(contract, look)
    clock = ClockOptions(reorder=rules.reorder)
    stream = make(engine, options=StreamOptions(rules.policy, rules.fill_most, clock=clock))
    watch = _watch(stream, seen)
    for index, packet in enumerate(case.packets):
        if packet.lost:
            stream.lost(packet.lost)
        try:
            decided = list(stream.process(Chunk(packet.samples, None, 0, packet.stamps, False, packet.sequence)))
        except UsageError:
            seen.refused.add(index)
            continue
        watch(decided)
    watch(list(stream.finish()))
    seen.gaps = [news for news in stream.log.fetch() if isinstance(news, Gap)]
    seen.events = dict(stream.log.counts)
    return seen


def _watch(stream: Stream, seen: Seen):
    """Keeps a copy of every window, those that no engine sees too."""
    feed = stream.ring.feed

    def copying(samples: np.ndarray):
        for first, view in feed(samples):
            seen.windows.append(view.copy())
            yield first, view

    stream.ring.feed = copying  # type: ignore[method-assign]

    def watch(decided: list) -> None:
        seen.decisions += decided
        seen.samples.append(stream.samples)

    return watch


def check(name: str, mode: str, policy: str, seed: int, make: type[Stream] = Stream) -> list[str]:
    """What is wrong with one run."""
    case, rules = draw(name, mode, seed), rules_of(seed, policy)
    wrong = judge(case, play(case, rules, make), rules)
    return [f"{name}, {mode}, {policy}, seed {seed} ({rules}): {text}" for text in wrong]


def main() -> int:
    """Runs them all and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--fault", choices=sorted(FAULTS))
    given = parser.parse_args()
    began, total, failures = time.monotonic(), 0, 0
    for name in [given.fault] if given.fault else sorted(FAULTS):
        wrong: list[str] = []
        for seed in range(given.first, given.first + given.seeds):
            for mode in MODES:
                for policy in POLICIES:
                    total += 1
                    wrong += check(name, mode, policy, seed)
        failures += len(wrong)
        print(f"{name:18} {'ok' if not wrong else f'{len(wrong)} wrong'}")
        for text in wrong[:5]:
            print(f"  {text}")
    print(f"{total:,} runs of {len(FAULTS)} faults in {time.monotonic() - began:.0f} s: {failures} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
