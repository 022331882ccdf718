"""A run stays small: by its own report, and by what the kernel says of the process once it is over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers_data import WATCH_TINY
from tests.helpers_model import SMALL, WIDE, save_watch_model
from tests.helpers_run import command_line, environment

MOST_MB = 150


# Linux hands a process the peak of whatever started it, so a small one must: it runs argv[2:] with stdout to argv[1].
_MEASURE = """
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, out, 1)])
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024)
"""


def peak_mb(argv: list[str], out: Path) -> tuple[int, float]:
    """(exit code, peak resident memory of the process in MB)."""
    measure = [sys.executable, "-I", "-S", "-c", _MEASURE, str(out), *argv]
    done = subprocess.run(measure, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=True)
    code, peak = done.stdout.split()
    return int(code), float(peak)


@pytest.mark.parametrize("widths", [SMALL, WIDE])
def test_a_run_stays_below_150_mb(tmp_path, widths):
    model = save_watch_model(tmp_path, widths=widths)
    assert (model.stat().st_size > 2_000_000) == (widths is WIDE)
    hop = ("--hop", "10") if widths is SMALL else ()
    argv = command_line("sattn-run", model, f"replay:{WATCH_TINY}", "--journal", tmp_path / "j", "--json", *hop)
    code, measured = peak_mb(argv, tmp_path / "out")
    assert code == 0
    report = json.loads((tmp_path / "out").read_text())
    assert report["windows"] > 100
    assert measured < MOST_MB
    assert report["peak_rss_mb"] < MOST_MB
    # The report is written a little before the end, of the same process.
    assert report["peak_rss_mb"] == pytest.approx(measured, abs=10)


def test_the_measure_sees_what_is_taken(tmp_path):
    """The control: the same process with 150 MB more in it is over the bound."""
    model = save_watch_model(tmp_path)
    argv = command_line("sattn-run", model, f"replay:{WATCH_TINY}", "--json")
    argv[2] = f"held = b'x' * ({MOST_MB} << 20); {argv[2]}"
    code, measured = peak_mb(argv, tmp_path / "out")
    assert code == 0
    assert measured > MOST_MB
    assert json.loads((tmp_path / "out").read_text())["peak_rss_mb"] > MOST_MB


def test_the_report_does_not_count_the_memory_of_a_large_parent(tmp_path):
    model = save_watch_model(tmp_path)
    argv = command_line("sattn-run", model, f"replay:{WATCH_TINY}", "--json")
    large = "import os, sys; held = b'x' * (300 << 20); os.execv(sys.argv[1], sys.argv[1:])"
    code, _ = peak_mb([sys.executable, "-c", large, *argv], tmp_path / "out")
    assert code == 0
    assert json.loads((tmp_path / "out").read_text())["peak_rss_mb"] < MOST_MB
