"""Which adapter is taken, what is said where there is none, and the names held against the real cuda-python."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sattn_edge.errors import UnavailableError, UsageError
from sattn_runtime.cuda import CudaError, cuda_python, errors, open_cuda
from sattn_runtime.testing import fake_codes, fake_cuda_runtime
from tests.helpers_device import use_fake_device

PIP = ("pip install 'sattn-edge[jetson6]'", "pip install 'sattn-edge[jetson7]'", "pip install 'sattn-edge[pycuda]'")


@pytest.mark.parametrize(
    ("installed", "asked", "taken"),
    [
        ({}, None, "cuda-python 12.6.2"),
        ({}, "cuda-python", "cuda-python 12.6.2"),
        ({}, "pycuda", "pycuda 2026.1"),
        ({"cuda_python": ""}, None, "pycuda 2026.1"),
        ({"pycuda": ""}, None, "cuda-python 12.6.2"),
        ({"cuda_python": "12.2.1", "pycuda": ""}, None, "cuda-python 12.2.1"),
    ],
)
def test_the_first_that_is_installed(monkeypatch, installed, asked, taken):
    use_fake_device(monkeypatch, **installed)
    cuda = open_cuda(asked)
    assert cuda.info.adapter == taken
    cuda.close()


def test_none_is_installed(monkeypatch):
    use_fake_device(monkeypatch, cuda_python="", pycuda="")
    with pytest.raises(UnavailableError, match="CUDA adapter: neither cuda-python nor pycuda is installed; ") as caught:
        open_cuda()
    assert all(line in str(caught.value) for line in PIP)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(("adapter", "missing"), [("cuda-python", {"cuda_python": ""}), ("pycuda", {"pycuda": ""})])
def test_the_one_asked_for_is_not_installed(monkeypatch, adapter, missing):
    use_fake_device(monkeypatch, **missing)
    with pytest.raises(UnavailableError, match=f"CUDA adapter: {adapter} is not installed"):
        open_cuda(adapter)


def test_no_such_adapter():
    with pytest.raises(UsageError, match=r"CUDA adapter: got 'pycude'; did you mean 'pycuda'\?"):
        open_cuda("pycude")


@pytest.mark.parametrize("adapter", ["cuda-python", "pycuda"])
@pytest.mark.parametrize("name", ["libcudart.so.12", "numpy"], ids=["library", "module"])
def test_one_that_can_not_be_loaded(monkeypatch, adapter, name):
    """Such a one is installed: another is not taken in its place, and the reason is told."""
    use_fake_device(monkeypatch)
    module = {"cuda-python": "cuda.bindings.runtime", "pycuda": "pycuda.driver"}[adapter]
    real = importlib.import_module

    def broken(wanted: str) -> ModuleType:
        if wanted != module:
            return real(wanted)
        if name == "numpy":
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        raise ImportError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(UnavailableError, match=rf"{adapter}: can't be loaded \(.*{name}.*\); .*pip install") as caught:
        open_cuda(adapter)
    assert not isinstance(caught.value, CudaError)


@pytest.mark.parametrize("cuda", ["12.6.2", "12.2.1", ""])
def test_no_device(monkeypatch, cuda):
    use_fake_device(monkeypatch, cuda_python=cuda, visible=False)
    with pytest.raises(
        CudaError, match=r"no CUDA-capable device is detected\); .*unset CUDA_VISIBLE_DEVICES"
    ) as caught:
        open_cuda()
    assert caught.value.code == ("cudaErrorNoDevice" if cuda else "CUDA_ERROR_NO_DEVICE")
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("cuda", ["12.6.2", "12.2.1", ""])
def test_no_driver(monkeypatch, cuda):
    use_fake_device(monkeypatch, cuda_python=cuda, driver=0)
    with pytest.raises(CudaError) as caught:
        open_cuda()
    assert caught.value.code == "cudaErrorInsufficientDriver"
    assert all(line in str(caught.value) for line in PIP[:2])


@pytest.mark.parametrize(
    ("driver", "runtime", "works"), [(12060, 13000, False), (13000, 12060, True), (12020, 12060, True)]
)
def test_a_driver_of_another_major_version(monkeypatch, driver, runtime, works):
    use_fake_device(monkeypatch, driver=driver, runtime=runtime)
    if works:
        open_cuda().close()
        return
    with pytest.raises(CudaError, match="cudaErrorInsufficientDriver"):
        open_cuda()


@pytest.mark.parametrize("cuda", ["12.6.2", ""])
def test_opening_that_fails_half_way_leaves_no_context(monkeypatch, cuda):
    from sattn_runtime.testing import device as fake

    use_fake_device(monkeypatch, cuda_python=cuda, faults={"cudaGetDeviceProperties": "cudaErrorUnknown"})
    with pytest.raises(CudaError, match="unknown error"):
        open_cuda()
    assert not any(fake.current().live().values())


# ------------------------------------------------------------------ errors in words


@pytest.mark.parametrize("known", errors.KNOWN, ids=lambda known: known.runtime)
def test_every_known_error(known):
    error = CudaError("cudaX", known.runtime)
    assert str(error).startswith(f"CUDA: cudaX gave {known.runtime} ({known.meaning})")
    assert (error.allowed, error.todo) == (known.allowed, known.todo)
    if known.driver:
        assert str(CudaError("cudaX", known.driver)) == str(error).replace(known.runtime, known.driver)
        assert errors.driver_name(known.meaning) == known.driver


def test_an_error_nobody_knows():
    assert (
        str(CudaError("cudaX", "cudaErrorNew", "it is new"))
        == "CUDA: cudaX gave cudaErrorNew (it is new); run sattn-doctor"
    )
    assert errors.driver_name("it is new") is None
    assert not CudaError("cudaX", "cudaErrorNew").out_of_memory


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("cuMemAlloc failed: out of memory", "cuMemAlloc gave CUDA_ERROR_OUT_OF_MEMORY (out of memory)"),
        (
            "explicit_context_dependent failed: invalid device context - no currently active context?",
            "explicit_context_dependent gave CUDA_ERROR_INVALID_CONTEXT (invalid device context)",
        ),
        ("cuX failed: something new", "cuX gave 'something new'"),
        ("nobody knows", "pycuda gave 'nobody knows'"),
    ],
)
def test_words_of_pycuda(words, text):
    from sattn_runtime.cuda.pycuda import _named

    assert text in str(_named(words))


# ------------------------------------------------------------------ the real cuda-python


@pytest.fixture
def real() -> ModuleType:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    return sys.modules["cuda.bindings.runtime"]


def names_used() -> set[str]:
    """Every name of the runtime in the adapter's source."""
    return set(re.findall(r"\bcuda[A-Z]\w*", Path(cuda_python.__file__).read_text()))


def known_to(module: ModuleType) -> set[str]:
    """Names of a runtime module, and those of its enums that the adapter looks into."""
    enums = (module.cudaDeviceAttr, module.cudaMemcpyKind, module.cudaStreamCaptureMode, module.cudaError_t)
    return {*dir(module), *(name for enum in enums for name in dir(enum))}


def test_the_source_names_what_it_uses():
    """The control: the search finds functions, flags and members of enums."""
    assert names_used() >= {"cudaMalloc", "cudaHostAllocMapped", "cudaMemcpyHostToDevice", "cudaDevAttrIntegrated"}
    assert "cudaNothing" not in known_to(fake_cuda_runtime)


def test_the_fake_has_every_name_the_adapter_uses():
    assert names_used() - known_to(fake_cuda_runtime) == set()


def test_the_real_one_has_every_name_the_adapter_uses(real):
    assert names_used() - known_to(real) == set()


def test_the_fake_is_like_the_real_one(real):
    for name in fake_cuda_runtime.__all__:
        fake = getattr(fake_cuda_runtime, name)
        if isinstance(fake, int):
            assert getattr(real, name) == fake, name
        elif isinstance(fake, type):
            for member in fake:
                assert int(getattr(getattr(real, name), member.name)) == member.value, member
        else:
            assert callable(getattr(real, name)), name


def test_the_words_are_the_real_ones(real):
    for name, meaning in fake_codes.MEANINGS.items():
        assert real.cudaGetErrorString(getattr(real.cudaError_t, name))[1].decode() == meaning
    for known in errors.KNOWN:
        assert real.cudaGetErrorString(getattr(real.cudaError_t, known.runtime))[1].decode() == known.meaning


def test_the_driver_numbers_errors_as_the_runtime_does(real):
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-python")
    for known in errors.KNOWN:
        if known.driver:
            assert int(getattr(driver.CUresult, known.driver)) == int(getattr(real.cudaError_t, known.runtime)), known


def test_the_real_one_without_a_gpu(real):
    if real.cudaGetDeviceCount()[0] == real.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU")
    with pytest.raises(CudaError) as caught:
        open_cuda("cuda-python")
    assert caught.value.code in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice")
    assert (caught.value.call, caught.value.exit_code) == ("cudaGetDeviceCount", 6)


@pytest.mark.gpu
def test_the_real_one_on_a_gpu(real):
    if real.cudaGetDeviceCount()[0] != real.cudaError_t.cudaSuccess:
        pytest.skip("there is no GPU")
    import numpy as np

    cuda = open_cuda("cuda-python")
    x, back = np.arange(16, dtype=np.float32), np.zeros(16, np.float32)
    stream, device = cuda.create_stream(), cuda.allocate(x.nbytes)
    pinned = cuda.allocate_host(x.nbytes, mapped=cuda.info.can_map_host)
    pinned.array(np.float32, x.shape)[:] = x
    cuda.begin_capture(stream)
    cuda.copy_in(device, pinned.address, x.nbytes, stream)
    graph = cuda.end_capture(stream)
    start, end = cuda.create_event(), cuda.create_event()
    cuda.record(start, stream)
    cuda.launch(graph, stream)
    cuda.record(end, stream)
    assert cuda.elapsed_ms(start, end) > 0
    cuda.copy_out(back.ctypes.data, device, x.nbytes, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(back, x)
    cuda.close()
