"""A few hundred mutants through the gate and ONNX Runtime; `run.py` does thousands."""

from __future__ import annotations

import pytest

from tests.fuzz.mutate import MUTATORS, mutant
from tests.fuzz.run import Job, built_in, fuzz, report
from tests.helpers_onnx import make_model


def test_mutants_are_determined_by_seed_and_number():
    data = make_model().SerializeToString()
    assert [mutant(data, 5, n) for n in range(100)] == [mutant(data, 5, n) for n in range(100)]
    assert [mutant(data, 5, n)[1] for n in range(100)] != [mutant(data, 6, n)[1] for n in range(100)]


@pytest.mark.parametrize(("foreign", "attention"), [(False, False), (True, False), (False, True)])
def test_no_mutant_gets_through_the_gate_and_crashes(tmp_path, foreign, attention):
    job = Job(built_in(tmp_path, attention=attention), count=300, seed=7, foreign=foreign, keep=tmp_path / "faults")
    result = fuzz(job)
    assert result.ok, report(job, result)
    assert sum(result.total.values()) == 300
    assert all(sum(counts.values()) for counts in result.counts.values())
    # Both sides of the gate are reached: nothing would be tested if all were refused, or none.
    assert result.total["refused"] > 150
    assert result.total["ran"] > 10


WORKER = """
import os, sys, time
start, count = int(sys.argv[sys.argv.index("--worker") + 1]), int(sys.argv[sys.argv.index("--count") + 1])
print("ready", flush=True)
for number in range(start, count):
    if number == 3:
        os.abort()
    if number == 5:
        time.sleep(60)
    if number == 7:
        open("left behind", "w").close()
    print(number, "bug" if number == 6 else "ran", '"text"', flush=True)
"""


def test_death_hanging_bugs_and_written_files_are_seen_and_attributed(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    job = Job(built_in(tmp_path), count=9, seed=0, limit_s=2.0, keep=tmp_path / "faults", worker=worker)
    result = fuzz(job)
    assert [(f["number"], f["outcome"]) for f in result.faults] == [(3, "crash"), (5, "timeout"), (6, "bug")]
    assert result.total == {"ran": 6, "crash": 1, "timeout": 1, "bug": 1}
    assert "left behind" in " ".join(result.written)
    assert len(list((tmp_path / "faults").iterdir())) == 3
    assert not result.ok


def test_every_mutator_changes_the_file():
    data = make_model().SerializeToString()
    for number, name in enumerate(MUTATORS):
        made = [mutant(data, 1, number + len(MUTATORS) * turn) for turn in range(8)]
        assert {m[0] for m in made} == {name}
        assert any(m[1] != data for m in made), name
