"""The fakes under the names of the real packages, and pycuda's own habits."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from sattn_runtime.testing import fake_site
from sattn_runtime.testing.device import current
from tests.helpers_device import PACKAGES, device_environment, use_fake_device


def loaded() -> dict[str, object]:
    """Modules of the packages that are faked."""
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES}


def test_the_fakes_have_the_names_of_the_real_packages_until_the_test_ends(monkeypatch):
    before, path = loaded(), list(sys.path)
    with monkeypatch.context() as within:
        use_fake_device(within, cuda_python="13.0.1")
        from cuda.bindings import runtime
        from pycuda import driver

        assert runtime.cudaMalloc(8)[0] == 0
        assert driver.__name__ == "pycuda.driver"
        assert {module.__file__.startswith(str(fake_site())) for module in loaded().values()} == {True}
        use_fake_device(within, cuda_python="")
        with pytest.raises(ModuleNotFoundError):
            from cuda.bindings import runtime
    assert loaded() == before
    assert sys.path == path


@pytest.mark.parametrize(
    ("config", "code", "found"),
    [
        (
            {"cuda_python": "13.0.1"},
            "from cuda.bindings import runtime; print(runtime.cudaRuntimeGetVersion()[1])",
            "12060",
        ),
        ({"cuda_python": "12.2.1"}, "from cuda import cudart; print(cudart.cudaDriverGetVersion()[1])", "12060"),
        ({}, "import pycuda.driver as d; d.init(); print(d.Device(0).name())", "Fake Orin"),
        ({"cuda_python": "12.2.1"}, "import cuda.bindings", "No module named 'cuda.bindings'"),
        ({"cuda_python": "13.0.1"}, "import cuda.cudart", "No module named 'cuda.cudart'"),
        ({"cuda_python": ""}, "import cuda", "No module named 'cuda'"),
        ({"pycuda": ""}, "import pycuda.driver", "No module named 'pycuda'"),
        ({"driver": 0}, "import pycuda.driver", "libcuda.so.1"),
    ],
)
def test_in_a_process_of_its_own(config, code, found):
    done = subprocess.run(
        [sys.executable, "-c", code], env=device_environment(**config), capture_output=True, text=True, timeout=60
    )
    assert found in (done.stdout if done.returncode == 0 else done.stderr)


# ------------------------------------------------------------------ pycuda's own habits


def test_pycuda_wants_to_be_started_and_to_have_a_context(monkeypatch):
    use_fake_device(monkeypatch)
    from pycuda import driver

    with pytest.raises(driver.LogicError, match="cuDeviceGet failed: initialization error"):
        driver.Device(0)
    driver.init()
    context = driver.Device(0).retain_primary_context()
    with pytest.raises(driver.LogicError, match="no currently active context"):
        driver.mem_alloc(8)
    context.push()
    memory = driver.mem_alloc(8)
    assert current().live()["device"] == 1
    del memory  # as pycuda frees what nobody holds
    assert current().live()["device"] == 0
    driver.Context.pop()
    with pytest.raises(driver.LogicError, match="cuMemGetInfo failed: invalid device context"):
        driver.mem_get_info()
    context.detach()
    with pytest.raises(driver.LogicError, match="cannot detach"):
        context.detach()
    assert not any(current().live().values())


def test_a_context_belongs_to_the_thread_that_pushed_it(monkeypatch):
    use_fake_device(monkeypatch)
    from pycuda import driver

    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    raised = []

    def work() -> None:
        try:
            driver.Stream()
        except driver.LogicError as error:
            raised.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "no currently active context" in raised[0]
    driver.Context.pop()
    context.detach()


def test_pycuda_frees_once(monkeypatch):
    use_fake_device(monkeypatch)
    from pycuda import driver

    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    memory = driver.mem_alloc(8)
    memory.free()
    with pytest.raises(driver.LogicError, match="invalid resource handle"):
        memory.free()
    driver.Context.pop()
    context.detach()
