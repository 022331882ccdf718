"""The interpreter, and what it must see: TensorRT, a CUDA adapter, ONNX Runtime, numpy."""

from __future__ import annotations

from sattn_runtime.doctor.checks_system import JETPACK_PACKAGES, expected_cuda_major, rtx_refuses, way_out_command
from sattn_runtime.doctor.facts import MIN_NUMPY, MIN_ONNXRUNTIME, MIN_PYTHON, MIN_TENSORRT, Version, dotted, numbers
from sattn_runtime.doctor.findings import BACKENDS, ON_GPU, Case, Finding, quoted
from sattn_runtime.doctor.packages import TENSORRT_BINDINGS
from sattn_runtime.doctor.probe import Interpreter
from sattn_runtime.doctor.probe_tree import system_module

BINDINGS_COMMAND = f"sudo apt install {TENSORRT_BINDINGS}"
_NEW_VENV = "/usr/bin/python3 -m venv --system-site-packages .venv"


def check_python(case: Case) -> Finding:
    """Its version, and whether it is a virtual environment that sees the system's packages."""
    python = case.probe.python
    if python is None:
        return case.stopper(
            "Python", "none was found", "everything here runs in it", "sudo apt install python3-venv", BACKENDS
        )
    if python.version < MIN_PYTHON:
        return case.stopper(
            "Python",
            _described(python),
            "sattn-edge needs 3.10 at least, which this system's packages do not have: pyenv, uv or conda bring one",
            "pyenv install 3.12",
            BACKENDS,
        )
    return case.ok("Python", _described(python))


def _described(python: Interpreter) -> str:
    if not python.venv:
        return f"{dotted(python.version)} of the system" if python.prefix == "/usr" else dotted(python.version)
    sees = "with" if python.system_packages else "without"
    return f"{dotted(python.version)} in {python.prefix}, {sees} the system's packages"


def check_tensorrt(case: Case) -> Finding:
    """Whether this interpreter imports a TensorRT that is new enough, and JetPack's own on a Jetson."""
    found = case.probe.tensorrt
    if case.unsupported:
        return _of_old_release(case)
    if not found.usable:
        return _no_tensorrt(case)
    libraries = case.board.tensorrt
    version = numbers(found.version or "") or numbers(libraries or "")
    told = dotted(version) or "of an unknown version"
    if version and version < MIN_TENSORRT:
        why = "8.6 is the oldest that engines are built with"
        mend = JETPACK_PACKAGES if case.board.kind == "jetson" else pip_install(case, _wheel(case))
        return _stops(case, f"{told} is too old", why, mend)
    if case.board.kind == "jetson" and libraries and version[:3] != numbers(libraries)[:3]:
        return case.advice(
            "TensorRT",
            f"{told} is what this Python imports; JetPack's is {libraries}",
            "a wheel installed by pip is made for servers, and hides JetPack's own module",
            "pip uninstall tensorrt",
        )
    return case.ok("TensorRT", told)


def _of_old_release(case: Case) -> Finding:
    known = case.board.jetpack
    version, python = (case.board.tensorrt or known.tensorrt, known.python) if known else ("", "")
    why = "only another JetPack brings a newer one"
    return _stops(case, f"{version} for Python {python} is too old", why, way_out_command(case))


def _wheel(case: Case) -> str:
    """TensorRT's wheel for the CUDA of a desktop's driver."""
    major = expected_cuda_major(case)
    return "tensorrt" if major is None else f"tensorrt-cu{major}"


def _no_tensorrt(case: Case) -> Finding:
    board = case.board
    if board.kind != "jetson":
        why = "engines are built with it; its wheels bring all it needs"
        return _stops(case, _absent(case), why, pip_install(case, _wheel(case)))
    if board.tensorrt is None:
        why = "engines are built with it; JetPack has it as packages"
        return _stops(case, "not installed", why, f"sudo apt install tensorrt {TENSORRT_BINDINGS}")
    system = system_module(case.tree, "tensorrt")
    if system is None and not board.has(TENSORRT_BINDINGS):
        why = "JetPack has the Python module as a package of its own"
        return _stops(case, f"{board.tensorrt} without its Python module", why, BINDINGS_COMMAND)
    return _not_visible(case, system)


def _not_visible(case: Case, system: Version | None) -> Finding:
    """JetPack's module is installed, and this interpreter does not import it."""
    board, python = case.board, case.probe.python
    known = board.jetpack
    minor = system or numbers(known.python if known else "")
    extra = f"sattn-edge[{known.extra}]" if known and known.extra else "sattn-edge"
    if python is not None and minor and python.version[:2] != minor[:2]:
        return _stops(
            case,
            f"{board.tensorrt} is for Python {dotted(minor[:2])}, and this is {dotted(python.version[:2])}",
            "it is a binary for the system's own Python; an environment of another can't import it",
            f"{_NEW_VENV} && .venv/bin/pip install '{extra}'",
        )
    if python is not None and python.venv and not python.system_packages:
        return _stops(
            case,
            f"{board.tensorrt} is installed, but its Python module is not visible in {python.prefix}",
            "it lies with the system's packages, which this environment leaves out; the command lets them in",
            f"/usr/bin/python3 -m venv --system-site-packages {quoted(python.prefix)}",
        )
    return _stops(
        case,
        f"{board.tensorrt}, whose Python module does not import: {case.probe.tensorrt.error}",
        "engines are built with it",
        f"sudo apt install --reinstall {TENSORRT_BINDINGS}",
    )


def _stops(case: Case, found: str, why: str, mend: str) -> Finding:
    return case.stopper("TensorRT", found, why, mend, ("tensorrt",))


def _absent(case: Case) -> str:
    """Not installed, or installed and broken."""
    error = case.probe.tensorrt.error or ""
    return "not installed" if "no module" in error or not case.probe.live else f"does not import: {error}"


def check_tensorrt_rtx(case: Case) -> Finding | None:
    """TensorRT-RTX, for GPUs of PCs and laptops. Told of a machine without a GPU only where it was asked for."""
    if case.board.kind == "none" and case.asked != "tensorrt-rtx":
        return None
    found = case.probe.tensorrt_rtx
    if (refusal := rtx_refuses(case)) is not None:
        mend = "sattn-build MODEL --backend tensorrt"
        return case.stopper("TensorRT-RTX", refusal, "use --backend tensorrt here", mend, ("tensorrt-rtx",))
    if expected_cuda_major(case) == 12:
        why = "it needs a driver from 580 on"
        old = "its wheel is for CUDA 13, and the driver here runs CUDA 12"
        return case.stopper("TensorRT-RTX", old, why, "sudo ubuntu-drivers install", ("tensorrt-rtx",))
    if not found.usable:
        return case.stopper(
            "TensorRT-RTX",
            "not installed" if "no module" in (found.error or "") or not case.probe.live else f"{found.error}",
            "a smaller TensorRT for GPUs of PCs; it comes as a wheel",
            pip_install(case, "sattn-edge[rtx]"),
            ("tensorrt-rtx",),
        )
    return case.ok("TensorRT-RTX", f"{found.version}")


def adapter_command(case: Case) -> str:
    """The pip line of the CUDA adapter for this machine."""
    known = case.board.jetpack
    if known is not None and known.extra is not None:
        return pip_install(case, f"sattn-edge[{known.extra}]")
    major = expected_cuda_major(case) or 13
    return pip_install(case, f"cuda-python>={major},<{major + 1}")


def pip_install(case: Case, requirement: str) -> str:
    """The pip line; where the system's own Python is used, in a new environment, for Ubuntu 24.04 allows no other."""
    python = case.probe.python
    if python is not None and not python.venv and python.prefix == "/usr":
        return f"{_NEW_VENV} && .venv/bin/pip install '{requirement}'"
    return f"pip install '{requirement}'"


def check_adapter(case: Case) -> Finding | None:
    """cuda-python of the same CUDA major version as the machine, or pycuda."""
    if case.unsupported or (case.board.kind == "none" and case.asked not in ON_GPU):
        return None
    gpu, found = case.probe.gpu, case.probe.distributions
    if gpu is not None and gpu.adapter is not None:
        return case.ok("CUDA adapter", gpu.adapter)
    version, pycuda = found.get("cuda-bindings") or found.get("cuda-python"), found.get("pycuda")
    if version is None and pycuda is None:
        why = "engines reach the GPU's memory and streams through it"
        return case.stopper("CUDA adapter", "neither cuda-python nor pycuda", why, adapter_command(case), ON_GPU)
    if version is None:
        return case.ok("CUDA adapter", f"pycuda {pycuda} (cuda-python could replay CUDA graphs, too)")
    return _compared(case, version, expected_cuda_major(case))


def _compared(case: Case, version: str, expected: int | None) -> Finding:
    found = f"cuda-python {version}"
    major = next(iter(numbers(version)), None)
    if expected is None or major is None or major == expected:
        return case.ok("CUDA adapter", found)
    if major > expected:
        why = f"its first call ends with cudaErrorInsufficientDriver: the driver here runs CUDA {expected}"
        return case.stopper("CUDA adapter", f"{found} is for CUDA {major}", why, adapter_command(case), ON_GPU)
    why = f"the CUDA here is {expected}; take the adapter of the same major version"
    return case.advice("CUDA adapter", f"{found} is for CUDA {major}", why, adapter_command(case))


def check_onnxruntime(case: Case) -> Finding | None:
    """What every engine is judged against, and what runs on the CPU."""
    return _needed(case, "ONNX Runtime", "onnxruntime", MIN_ONNXRUNTIME)


def check_numpy(case: Case) -> Finding | None:
    """What windows and logits are arrays of."""
    return _needed(case, "numpy", "numpy", MIN_NUMPY)


def _needed(case: Case, topic: str, name: str, oldest: Version) -> Finding | None:
    if case.probe.python is None or case.probe.python.version < MIN_PYTHON:
        return None  # nothing of use can be installed there
    version = case.probe.distributions.get(name)
    if version is not None and numbers(version) >= oldest:
        return case.ok(topic, version)
    found = "not installed" if version is None else f"{version} is older than {dotted(oldest)}"
    mend = f"pip install --upgrade '{name}>={dotted(oldest)}'"
    if "sattn-edge" not in case.probe.distributions:
        known = case.board.jetpack
        mend = pip_install(case, f"sattn-edge[{known.extra}]" if known and known.extra else "sattn-edge")
    return case.stopper(topic, found, "every command needs it", mend, BACKENDS)
