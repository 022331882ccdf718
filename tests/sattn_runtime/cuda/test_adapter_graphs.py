"""Graphs of the adapters that have them."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from sattn_edge.errors import UnavailableError, UsageError
from sattn_runtime.cuda import CudaError, open_cuda
from sattn_runtime.testing import device as fake
from tests.sattn_runtime.cuda.helpers_adapters import X, elsewhere, with_graphs, without_graphs


@with_graphs
def test_a_graph_runs_again_what_was_captured_on_what_is_there_then(cuda):
    stream, device = cuda.create_stream(), cuda.allocate(X.nbytes)
    there, back = (cuda.allocate_host(X.nbytes, mapped=False) for _ in range(2))
    source, result = (buffer.array(np.float32, X.shape) for buffer in (there, back))
    result[:] = -1
    source[:] = 0
    cuda.begin_capture(stream)
    cuda.copy_in(device, there.address, X.nbytes, stream)
    cuda.copy_out(back.address, device, X.nbytes, stream)
    graph = cuda.end_capture(stream)
    assert (result == -1).all()  # captured, not run
    for factor in (1, 3):
        source[:] = X * factor
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(result, X * factor)
    assert fake.current().live()["graphs"] == 1  # the template it was made from is gone
    cuda.destroy_graph(graph)
    assert fake.current().live()["graphs"] == 0


@with_graphs
def test_a_graph_whose_buffer_is_gone_is_found_out(cuda):
    stream, device, host = cuda.create_stream(), cuda.allocate(64), cuda.allocate_host(64, mapped=False)
    cuda.begin_capture(stream)
    cuda.copy_in(device, host.address, 64, stream)
    graph = cuda.end_capture(stream)
    cuda.launch(graph, stream)
    cuda.free(device)
    with pytest.raises(CudaError) as caught:
        cuda.launch(graph, stream)
    assert (caught.value.call, caught.value.code) == ("cudaGraphLaunch", "cudaErrorIllegalAddress")


@pytest.mark.parametrize(
    ("faults", "call", "code"),
    [
        ({"capture": True}, "cudaStreamEndCapture", "cudaErrorStreamCaptureInvalidated"),
        ({"cudaGraphInstantiate": "cudaErrorMemoryAllocation"}, "cudaGraphInstantiate", "cudaErrorMemoryAllocation"),
        ({"cudaStreamBeginCapture": "cudaErrorNotSupported"}, "cudaStreamBeginCapture", "cudaErrorNotSupported"),
    ],
)
@with_graphs
def test_a_capture_that_fails_leaves_nothing_and_an_ordinary_stream(opened, faults, call, code):
    cuda = opened(faults=faults)
    stream = cuda.create_stream()

    def capture() -> None:
        cuda.begin_capture(stream)
        cuda.end_capture(stream)

    with pytest.raises(CudaError) as caught:
        capture()
    assert (caught.value.call, caught.value.code) == (call, code)
    assert fake.current().live()["graphs"] == 0
    ran = []
    fake.current().enqueue(stream, lambda: ran.append(1), 0)
    cuda.synchronize(stream)
    assert ran == [1]


@pytest.mark.parametrize("spoil", ["allocate", "synchronize"])
@with_graphs
def test_what_a_capture_does_not_allow_spoils_it(cuda, spoil):
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCaptureUnsupported"):
        cuda.allocate(64) if spoil == "allocate" else cuda.synchronize(stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCaptureInvalidated"):
        cuda.end_capture(stream)
    cuda.free(cuda.allocate(64))
    cuda.synchronize(stream)


@with_graphs
def test_another_thread_may_allocate_during_a_capture(cuda):
    """What the global mode would forbid."""
    stream = cuda.create_stream()
    cuda.begin_capture(stream)

    def work() -> None:
        with closing(open_cuda()) as other:
            other.free(other.allocate(64))

    assert elsewhere(work) == []
    cuda.destroy_graph(cuda.end_capture(stream))


@without_graphs
def test_pycuda_has_no_graphs(cuda):
    stream = cuda.create_stream()
    for call in (
        lambda: cuda.begin_capture(stream),
        lambda: cuda.end_capture(stream),
        lambda: cuda.launch(None, stream),
        lambda: cuda.destroy_graph(None),
    ):
        with pytest.raises(UnavailableError, match=r"CUDA graphs: pycuda has none; use cuda-python for them"):
            call()


@pytest.mark.parametrize("work", ["begin_capture", "end_capture", "destroy_graph"])
@with_graphs
def test_another_thread_is_refused_graphs_too(cuda, work):
    (error,) = elsewhere(lambda: getattr(cuda, work)(cuda.info))
    assert isinstance(error, UsageError)
