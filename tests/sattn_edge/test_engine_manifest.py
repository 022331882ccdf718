"""What an entry of the engine store is bound to: every field is in its key, and has words for when it changes."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from sattn_edge import engine_manifest
from sattn_edge.engine_manifest import Subject, differences, platform_differences, subject_of
from tests.helpers_store import GPU, PLATFORM, SUBJECT, manifest_of, single_changes, with_change

CHANGES = dict(single_changes(SUBJECT))
WORDS = {
    "graph": "the graph is another one",
    "calibration": "the calibration table is another one",
    "request.backend": "the backend was tensorrt and is tensorrt0",
    "request.precision": "the precision was fp16 and is fp160",
    "request.attention": "the attention form asked for was auto and is auto0",
    "request.batch": "the batch was 2 and is 3",
    "request.threads": "the number of threads was 1 and is 2",
    "request.batch_range": "the batch range was 1,2,4 and is 1,2,5",
    "request.workspace_mib": "the workspace was 64 and is 65",
    "request.arch": "the architecture compiled for was sm86 and is sm860",
    "platform.runtime": "TensorRT was 10.3.0 and is 10.3.00",
    "platform.cpu": "the processor was a board and is a board0",
    "platform.architecture": "the architecture was aarch64 and is aarch640",
    "platform.version": "sattn-edge was 0.1.0 and is 0.1.00",
    "platform.features": "the processor's instruction set was asimddp and is asimddp0",
    "platform.gpu.name": "the GPU was Orin and is Orin0",
    "platform.gpu.compute_capability": "its compute capability was 8.7 and is 8.70",
    "platform.gpu.driver": "the CUDA driver was 12.6 and is 12.60",
    "platform.gpu.cuda": "CUDA was 12.6 and is 12.60",
    "platform.gpu.l4t": "L4T was 36.4.3 and is 36.4.30",
}
NONE_TOO = ("calibration", "request.batch", "request.batch_range", "request.workspace_mib", "request.arch")


def unseen() -> list[str]:
    """Fields whose change leaves the key as it was."""
    return [name for name, subject in CHANGES.items() if subject.key == SUBJECT.key]


def test_every_field_is_in_the_key():
    assert unseen() == []
    keys = [SUBJECT.key, *(subject.key for subject in CHANGES.values())]
    assert len(set(keys)) == len(keys)


def test_control_a_field_left_out_of_the_key_is_seen(monkeypatch):
    def without_driver(self: Subject) -> str:
        return msgspec.json.encode(with_change(self, "platform.gpu.driver", "")).hex()

    monkeypatch.setattr(Subject, "key", property(without_driver))
    assert unseen() == ["platform.gpu.driver"]


@pytest.mark.parametrize("name", [*NONE_TOO, "platform.gpu", "platform.gpu.l4t"])
def test_nothing_is_another_value_too(name):
    subject = with_change(SUBJECT, name, None)
    assert subject.key != SUBJECT.key
    assert len(differences(SUBJECT, subject)) == 1


def test_a_key_names_a_folder_and_stays_the_same():
    assert len(SUBJECT.key) == 64
    assert not set(SUBJECT.key) - set("0123456789abcdef")
    again = msgspec.json.decode(msgspec.json.encode(SUBJECT), type=Subject)
    assert again.key == SUBJECT.key


def test_every_field_has_words():
    assert set(WORDS) == set(CHANGES)
    assert {name: differences(SUBJECT, subject) for name, subject in CHANGES.items()} == {
        name: (text,) for name, text in WORDS.items()
    }


def test_control_a_field_without_words_is_seen(monkeypatch):
    monkeypatch.delitem(engine_manifest._GPU_WORDS, "driver")
    assert differences(SUBJECT, CHANGES["platform.gpu.driver"]) == ()


def test_nothing_differs_from_itself():
    assert differences(SUBJECT, SUBJECT) == ()


def test_everything_that_differs_is_told():
    other = with_change(with_change(SUBJECT, "graph", "sha256:9"), "platform.gpu.cuda", "13.0")
    assert differences(SUBJECT, other) == ("the graph is another one", "CUDA was 12.6 and is 13.0")


def test_between_two_precisions_a_calibration_says_nothing_new():
    other = with_change(with_change(SUBJECT, "request.precision", "int8"), "calibration", None)
    assert differences(SUBJECT, other) == ("the precision was fp16 and is int8",)


@pytest.mark.parametrize(
    ("backend", "name"),
    [("onnxruntime", "ONNX Runtime"), ("tensorrt", "TensorRT"), ("tensorrt-rtx", "TensorRT-RTX"), ("mine", "mine")],
)
def test_the_runtime_is_called_by_its_name(backend, name):
    now = msgspec.structs.replace(PLATFORM, runtime="11")
    assert platform_differences(PLATFORM, now, backend) == (f"{name} was 10.3.0 and is 11",)


def test_a_gpu_that_came_or_went():
    without = msgspec.structs.replace(PLATFORM, gpu=None)
    assert platform_differences(PLATFORM, without, "tensorrt") == ("the GPU was Orin and is not set",)
    assert platform_differences(without, PLATFORM, "tensorrt") == ("the GPU was not set and is Orin",)
    assert platform_differences(without, without, "tensorrt") == ()


def test_instructions_a_processor_lost():
    now = msgspec.structs.replace(PLATFORM, features=())
    assert platform_differences(PLATFORM, now, "tensorrt") == (
        "the processor's instruction set was asimddp and is nothing",
    )


@pytest.mark.parametrize(("precision", "bound"), [("fp32", False), ("fp16", False), ("int8", True), ("best", True)])
def test_a_calibration_binds_what_int8_can_come_of(precision, bound):
    model = SimpleNamespace(graph_digest="sha256:1", calibration={"method": "minmax"})
    request = msgspec.structs.replace(SUBJECT.request, precision=precision)
    found = subject_of(model, request, "10.3.0", GPU)
    assert (found.calibration is not None) == bound
    model.calibration = {"method": "entropy"}
    assert (subject_of(model, request, "10.3.0", GPU) == found) != bound


def test_what_was_kept_is_accepted_only_if_it_was_run():
    manifest = manifest_of(b"plan")
    assert manifest.accepted
    (kept,) = manifest.candidates
    for candidate in (
        msgspec.structs.replace(kept, acceptance=None),
        msgspec.structs.replace(kept, acceptance=msgspec.structs.replace(kept.acceptance, accepted=False)),
        msgspec.structs.replace(kept, form="taps"),
        msgspec.structs.replace(kept, precision="fp32"),
    ):
        assert not msgspec.structs.replace(manifest, candidates=(candidate,)).accepted
