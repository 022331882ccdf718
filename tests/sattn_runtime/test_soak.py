"""20,000 windows of the real loop leave nothing behind; `make soak` runs two million. And what leaks is caught."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.helpers_data import ROOT
from tests.helpers_run import environment

WINDOWS = 20_000
MOST_GROWTH_MB = 8.0


def soak(*options: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "benchmarks/soak.py", "--windows", str(WINDOWS), "--json", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("plan", ["full", "stateful"])
def test_nothing_grows(plan):
    code, row = soak("--incremental", plan if plan != "full" else "off")
    assert (code, row["passed"], row["plan"]) == (0, True, plan), row
    assert row["growth_mb"] < MOST_GROWTH_MB
    assert row["more_descriptors"] == row["more_threads"] == 0
    # It was the run it is said to be.
    assert row["windows"] >= WINDOWS
    assert row["gaps"] >= 40
    assert row["streams"] >= 4
    assert row["unjudged"] > 0
    assert row["rotated"] > 3
    assert row["journal_files"] == 4
    assert len(row["looks"]) >= 100


@pytest.mark.parametrize(
    ("leak", "what", "least"),
    [
        ("memory", "growth_mb", MOST_GROWTH_MB),
        ("cycles", "growth_mb", MOST_GROWTH_MB),
        ("descriptors", "more_descriptors", 10),
        ("threads", "more_threads", 10),
    ],
)
def test_a_leak_is_caught(leak, what, least):
    code, row = soak("--leak", leak)
    assert (code, row["passed"]) == (1, False)
    assert row[what] > least
