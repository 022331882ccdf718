"""What holds for the checks together; each has its own beside what breaks it, by the module it lies in."""

from __future__ import annotations

import pytest

from sattn_edge.errors import UsageError
from sattn_runtime.doctor import examine
from sattn_runtime.doctor.probe import Probe, StoreFolder
from tests.sattn_runtime.doctor.helpers_boards import plant
from tests.sattn_runtime.doctor.helpers_cases import WELL, diagnosed, told


def test_a_board_on_which_all_is_well(tmp_path):
    """The control of all in `test_checks_*`: the probe they change gives nothing to mend."""
    diagnosis = diagnosed(tmp_path)
    assert {f.level for f in diagnosis.findings} == {"ok"}
    assert diagnosis.can_run("tensorrt")
    assert diagnosis.can_run("onnxruntime")
    assert told(diagnosis, "GPU") == ("ok", "Orin, compute capability 8.7, by cuda-python 12.6.0", "")
    assert told(diagnosis, "disk") == ("ok", "8.0 GiB free where the engine store is", "")
    assert diagnosis.not_examined == ()


def test_no_interpreter_at_all(tmp_path):
    probe = Probe(live=False, python=None, store=StoreFolder(None))
    diagnosis = examine(plant("jetpack6.1-agx-orin", tmp_path), None, probe)
    assert told(diagnosis, "Python")[0] == "problem"
    assert not any(diagnosis.can_run(b) for b in ("tensorrt", "tensorrt-rtx", "onnxruntime"))


@pytest.mark.parametrize(
    ("root", "backend", "message"),
    [
        ("/no/such", None, "--root: '/no/such' is not a folder; /, or a copy of a machine's file tree"),
        ("/", "tensort", "--backend: got 'tensort'; did you mean 'tensorrt'?"),
        ("/", "", "--backend: got ''; known: onnxruntime, tensorrt, tensorrt-rtx"),
    ],
)
def test_wrong_arguments(root, backend, message):
    with pytest.raises(UsageError) as caught:
        examine(root, backend, WELL)
    assert str(caught.value) == message
