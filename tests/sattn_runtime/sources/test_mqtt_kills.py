"""Exactly once over kill -9 and restarts of the broker, in short; `make kills` is the whole of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.helpers_data import ROOT
from tests.sattn_runtime.sources.helpers_mqtt import mosquitto_program

pytest.importorskip("paho.mqtt.client")


def trial(*options: str) -> tuple[int, dict[str, Any]]:
    mosquitto_program()
    command = [sys.executable, "benchmarks/mqtt_kills.py", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_each_window_is_decided_once():
    code, found = trial("--messages", "2000", "--kills", "2", "--restarts", "1")
    assert (found["lost"], found["doubled"], found["wrong"], found["gaps"]) == (0, 0, 0, 0)
    assert (found["windows"], found["in_order"], found["kills"], found["restarts"], code) == (499, True, 2, 1, 0)


@pytest.mark.parametrize(("way", "fault"), [("forgets", "doubled"), ("hasty", "lost")])
def test_a_careless_run_fails_it(way, fault):
    """The controls. A kill does harm where it falls between a line and its acknowledgement: one in two or so."""
    code, found = trial("--messages", "1000", "--kills", "8", "--restarts", "0", "--careless", way)
    assert found[fault] > 0
    assert code == 1
