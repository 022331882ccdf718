"""What is given back, when, and by which thread."""

from __future__ import annotations

import atexit
import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import pytest

from sattn_edge.errors import UsageError
from sattn_runtime.cuda import Cuda, open_cuda
from sattn_runtime.testing import device as fake
from tests.helpers_device import calls, device_environment
from tests.sattn_runtime.cuda.helpers_adapters import X, elsewhere, with_graphs

NOTHING = {"device": 0, "host": 0, "streams": 0, "events": 0, "graphs": 0, "contexts": 0}


def fill(cuda: Cuda) -> None:
    """One of everything."""
    stream = cuda.create_stream()
    cuda.allocate(64)
    for mapped in (True, False):
        cuda.allocate_host(64, mapped=mapped)
    cuda.create_event()
    if cuda.graphs:
        cuda.begin_capture(stream)
        cuda.end_capture(stream)


def test_everything_can_be_given_back_one_by_one(cuda):
    at_first = fake.current().live()
    stream, pointer, event = cuda.create_stream(), cuda.allocate(64), cuda.create_event()
    buffers = [cuda.allocate_host(64, mapped=mapped) for mapped in (True, False)]
    assert fake.current().live() == {**at_first, "device": 1, "host": 2, "streams": 1, "events": 1}
    cuda.destroy_event(event)
    del event
    for buffer in buffers:
        cuda.free_host(buffer)
    cuda.free(pointer)
    cuda.destroy_stream(stream)
    assert fake.current().live() == at_first


def test_close_gives_back_what_is_left(cuda):
    fill(cuda)
    left = fake.current().live()
    assert (left["device"], left["host"], left["streams"], left["events"]) == (1, 2, 1, 1)
    cuda.close()
    assert fake.current().live() == NOTHING
    cuda.close()


def test_close_gives_back_the_rest_where_one_thing_fails(opened):
    cuda = opened(faults={"cudaFree": "cudaErrorLaunchFailure@1"})
    cuda.allocate(64)
    fill(cuda)
    cuda.close()
    left = fake.current().live()
    assert left.pop("device") <= 1  # what pycuda could not free goes with its object
    assert not any(left.values())


@with_graphs
def test_close_ends_a_capture(cuda):
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    cuda.close()
    assert fake.current().live() == NOTHING


def test_close_waits_for_the_streams_first(opened, tmp_path):
    log = tmp_path / "calls"
    cuda = opened(log=log)
    cuda.create_stream()
    cuda.allocate(64)
    before = len(calls(log))
    cuda.close()
    assert calls(log)[before] in ("cudaStreamSynchronize", "cuStreamSynchronize")


def test_the_last_that_was_made_is_given_back_first(opened, tmp_path):
    """A graph goes before the memory that it has the addresses of."""
    log = tmp_path / "calls"
    cuda = opened(log=log)
    cuda.allocate(64)
    cuda.allocate_host(64, mapped=False)
    before = len(calls(log))
    cuda.close()
    assert calls(log)[before : before + 2] in (["cudaFreeHost", "cudaFree"], ["cuMemFreeHost", "cuMemFree"])


def test_nothing_is_left_to_do_at_the_end_of_the_program(opened, monkeypatch):
    waiting = []
    monkeypatch.setattr(atexit, "register", waiting.append)
    monkeypatch.setattr(atexit, "unregister", waiting.remove)
    cuda = opened()
    assert len(waiting) == (0 if cuda.graphs else 1)  # cuda-python has nothing to leave
    cuda.close()
    assert waiting == []


def test_what_is_not_ours_is_not_given_back(cuda):
    pointer = cuda.allocate(64)
    cuda.free(pointer)
    for give_back in (
        lambda: cuda.free(pointer),
        lambda: cuda.free(12345),
        lambda: cuda.destroy_stream(12345),
        lambda: cuda.destroy_event(object()),
    ):
        with pytest.raises(ValueError, match=r"is not of this adapter, or was given back"):
            give_back()


def test_two_in_one_thread_do_not_disturb_each_other(cuda):
    with closing(open_cuda()) as other:
        mine, theirs = cuda.allocate(64), other.allocate(64)
        with pytest.raises(ValueError, match="is not of this adapter"):
            cuda.free(theirs)
    cuda.free(mine)
    cuda.free(cuda.allocate(64))


def test_after_close(cuda):
    cuda.close()
    with pytest.raises(UsageError, match="CUDA context: used after it was closed; open a new one"):
        cuda.allocate(64)


# ------------------------------------------------------------------ threads


@pytest.mark.parametrize(
    "work",
    [
        lambda c, stream, host: c.check_thread(),
        lambda c, stream, host: c.free_bytes(),
        lambda c, stream, host: c.allocate(8),
        lambda c, stream, host: c.free(0),
        lambda c, stream, host: c.allocate_host(8, mapped=False),
        lambda c, stream, host: c.free_host(host),
        lambda c, stream, host: c.create_stream(),
        lambda c, stream, host: c.destroy_stream(stream),
        lambda c, stream, host: c.create_event(),
        lambda c, stream, host: c.destroy_event(None),
        lambda c, stream, host: c.elapsed_ms(None, None),
        lambda c, stream, host: c.close(),
    ],
)
def test_another_thread_is_refused(cuda, work):
    stream, host = cuda.create_stream(), cuda.allocate_host(64, mapped=False)
    (error,) = elsewhere(lambda: work(cuda, stream, host))
    assert isinstance(error, UsageError)
    mine = threading.current_thread().name
    text = f"CUDA context: used by thread reader; belongs to thread {mine}; open one engine in each thread"
    assert str(error) == text
    cuda.free_host(host)  # here it goes on


def test_a_thread_of_its_own_has_an_adapter_of_its_own(cuda):
    def work() -> None:
        with closing(open_cuda()) as own:
            own.check_thread()
            at, device, back = own.create_stream(), own.allocate(X.nbytes), np.zeros_like(X)
            own.copy_in(device, X.ctypes.data, X.nbytes, at)
            own.copy_out(back.ctypes.data, device, X.nbytes, at)
            own.synchronize(at)
            np.testing.assert_array_equal(back, X)

    assert elsewhere(work) == []
    cuda.check_thread()


# ------------------------------------------------------------------ the end of a program


def run_to_the_end(code: str, log) -> list[str]:
    """The calls of a program that opens pycuda and does not close it."""
    environment = device_environment(cuda_python="", log=log)
    done = subprocess.run(
        [sys.executable, "-c", f"from sattn_runtime.cuda import open_cuda\n{code}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return calls(log)


def test_pycuda_is_closed_when_the_program_ends(tmp_path):
    made = run_to_the_end("cuda = open_cuda(); cuda.allocate(64)", tmp_path / "calls")
    assert made[-3:] == ["cuMemFree", "cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"]


def test_pycuda_that_was_closed_is_not_closed_again(tmp_path):
    made = run_to_the_end("cuda = open_cuda(); cuda.close()", tmp_path / "calls")
    assert made.count("cuCtxPopCurrent") == made.count("cuDevicePrimaryCtxRelease") == 1


def test_pycuda_of_a_thread_that_is_gone_is_left_alone(tmp_path):
    code = """
import threading
kept = []
thread = threading.Thread(target=lambda: kept.append(open_cuda()))
thread.start()
thread.join()
"""
    assert "cuCtxPopCurrent" not in run_to_the_end(code, tmp_path / "calls")
