"""kill -9 at every write: the old engine or the new one is found, is right, and the next build sweeps up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sattn_runtime.testing import fake_site
from tests.helpers_device import device_environment
from tests.helpers_run import environment
from tests.sattn_runtime.tensorrt.helpers_tensorrt import API, save

MAIN = "from tests.sattn_runtime.tensorrt.helpers_kills import main; main()"
Rows = list[dict[str, Any]]


def kills(how: str, folder: Path) -> Rows:
    """What was found after each kill; see `helpers_kills`."""
    paths = os.pathsep.join([str(fake_site()), environment()["PYTHONPATH"]])
    # One thread: forking a process that has more is a warning, and risky.
    more = {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, how, str(folder)],
        env={**device_environment(api=API), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def found(rows: Rows) -> list[str]:
    return [row["found"] for row in rows]


def old_then_new(rows: Rows) -> bool:
    """Whether the old one is found until a moment, and from then on the new one, and never anything else."""
    seen = found(rows)
    return set(seen) == {"old", "new"} and seen == sorted(seen, reverse=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder = tmp_path_factory.mktemp("whole")
    save(folder)
    return kills("whole", folder)


def test_a_build_is_killed_at_every_kind_of_write(whole):
    *killed, last = whole
    assert all(row["killed"] for row in killed)
    assert not last["killed"]
    kinds = Counter(row["before"] for row in killed)
    # Engine and timing cache by the compiler, then engine and manifest by the store: each file is written beside,
    # synced, made private and renamed, and its folder synced.
    assert kinds["os.rename"] == 4
    assert kinds["os.chmod"] == 4
    assert kinds["fsync"] == 8
    assert kinds["os.mkdir"] >= 1
    assert kinds["os.rmdir"] >= 1
    assert kinds["os.remove"] >= 3  # the compiler's two files, and the old engine
    assert kinds["content"] == kinds["other half"] == 4


def test_after_each_kill_the_old_engine_or_the_new_one_is_run_and_is_right(whole):
    assert old_then_new(whole), found(whole)


def test_after_each_kill_the_next_build_succeeds_and_leaves_nothing_behind(whole):
    tried = [row for row in whole if "built" in row]
    assert {row["state"] for row in tried} == {row["state"] for row in whole}
    assert len(tried) > 8  # that many different things a kill can leave
    for row in tried:
        assert (row["built"], row["then"], row["after_build"]) == (True, "new", []), row


def test_after_each_kill_the_store_can_be_listed_and_pruned(whole):
    for row in whole:
        assert (row["listed"], row["pruned"], row["after_prune"], row["entries"]) == ([""], [], [], 1), row


def test_the_store_alone(tmp_path):
    rows = kills("store", tmp_path)
    assert old_then_new(rows), found(rows)
    assert len(rows) > 12


@pytest.mark.parametrize(
    ("how", "what"),
    [("torn", "can't be read"), ("manifest-first", "No such file or directory"), ("tidy-first", "No such file")],
)
def test_control_a_store_that_writes_carelessly_is_caught(tmp_path, how, what):
    rows = kills(how, tmp_path)
    assert not old_then_new(rows)
    assert any(what in text for text in found(rows)), found(rows)
