"""Board, JetPack, CUDA and the GPU itself."""

from __future__ import annotations

from sattn_runtime.doctor.facts import NEWEST_L4T, cuda_major_of_driver, dotted, numbers
from sattn_runtime.doctor.findings import ON_GPU, Case, Finding, quoted

JETPACK_PACKAGES = "sudo apt install nvidia-jetpack"
_RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # those it compiles for


def check_board(case: Case) -> Finding:
    """What it is, and whether its GPU is one that any supported TensorRT knows."""
    board, chip = case.board, case.board.chip
    if board.undriven:
        return case.stopper(
            "board",
            f"{board.model or 'unnamed machine'}: an NVIDIA GPU, and no driver for it is loaded",
            "nothing runs on it without NVIDIA's own driver; boot again afterwards",
            "sudo ubuntu-drivers install",
            ON_GPU,
        )
    if board.kind == "none":
        return case.stopper(
            "board",
            f"{board.model or 'unnamed machine'}: no NVIDIA GPU with a driver",
            "engines run on a GPU; everything else runs here on the CPU",
            "sattn-build MODEL --backend onnxruntime",
            ON_GPU,
        )
    if board.kind == "nvidia":
        return case.ok(
            "board", f"{board.model or 'unnamed GPU'}" + (f", driver {board.driver}" if board.driver else "")
        )
    name = board.model or (chip.family if chip else "unnamed Jetson")
    if chip is None:
        told = f"chip {board.soc} is not known to this version" if board.soc else "its device tree does not name a chip"
        return case.ok("board", f"{name}; {told}")
    return case.ok("board", f"{name} ({board.soc}, compute capability {chip.compute_capability})")


def check_jetpack(case: Case) -> Finding | None:
    """The release, on a Jetson: known and supported, known and not, newer than this version, or not told."""
    board = case.board
    if board.kind != "jetson":
        return None
    if board.l4t is None:
        return case.advice(
            "JetPack",
            "L4T is not told by /etc/nv_tegra_release or the package nvidia-l4t-core",
            "in a container that is usual; the checks below go by what is installed",
            "dpkg-query --show nvidia-l4t-core",
        )
    known, l4t = board.jetpack, dotted(board.l4t)
    if known is None and board.l4t[0] > NEWEST_L4T:
        return case.advice(
            "JetPack",
            f"L4T {l4t} is newer than this version of sattn-edge knows (up to {NEWEST_L4T})",
            "the checks below go by what is installed; a newer sattn-edge may know it",
            "pip install --upgrade sattn-edge",
        )
    if known is None:
        return case.advice(
            "JetPack",
            f"L4T {l4t} is not a release that is known here",
            "the checks below go by what is installed",
            "cat /etc/nv_tegra_release",
        )
    if known.supported:
        return case.ok("JetPack", f"{board.jetpack_name} (L4T {l4t})")
    why = (
        f"its TensorRT {known.tensorrt} has bindings for Python {known.python} only, and sattn-edge needs "
        f"Python 3.10 and TensorRT 8.6 at least. {_way_out(case)}"
    )
    found = f"{board.jetpack_name} (L4T {l4t}): not supported for TensorRT engines"
    return case.stopper("JetPack", found, why, way_out_command(case), ON_GPU)


def _way_out(case: Case) -> str:
    chip = case.board.chip
    on_cpu = "a model runs on its CPU where a Python >= 3.10 is installed, with --backend onnxruntime"
    if chip is not None and chip.last_jetpack is not None:
        return f"JetPack {chip.last_jetpack} is the last for {chip.family}: {on_cpu}"
    return f"Flash JetPack 6 from an Ubuntu PC with NVIDIA's SDK Manager; until then {on_cpu}"


def way_out_command(case: Case) -> str:
    """On a release that is not supported: flash a newer one where there is one for this chip, else use the CPU."""
    chip = case.board.chip
    return "sdkmanager" if chip is None or chip.last_jetpack is None else "sattn-build MODEL --backend onnxruntime"


def check_cuda(case: Case) -> Finding | None:
    """The toolkit or the runtime library on a Jetson, what the driver runs on another machine."""
    board = case.board
    if board.kind == "none":
        return None
    if board.kind == "nvidia":
        return _desktop_cuda(case)
    if board.cuda is None:
        return case.stopper(
            "CUDA",
            "no CUDA is installed (/usr/local/cuda/version.json, package cuda-cudart)",
            "TensorRT's libraries need it; a flashed board has the driver only",
            JETPACK_PACKAGES,
            ON_GPU,
        )
    known = board.jetpack
    if known is not None and numbers(board.cuda)[:2] != numbers(known.cuda)[:2]:
        return case.advice(
            "CUDA",
            f"{board.cuda}; JetPack {board.jetpack_name} comes with {known.cuda}",
            "another CUDA than TensorRT was built for works within one major version only",
            JETPACK_PACKAGES,
        )
    return case.ok("CUDA", board.cuda)


def _desktop_cuda(case: Case) -> Finding:
    driver, major = case.board.driver, expected_cuda_major(case)
    if driver is None:
        return case.ok("CUDA", f"the driver runs CUDA {case.probe.gpu.driver if case.probe.gpu else 'of some version'}")
    toolkit = f"; toolkit {case.board.cuda}" if case.board.cuda else ""
    if major is None or major < 12:
        return case.stopper(
            "CUDA",
            f"driver {driver} runs CUDA {major or 'below 11'} at most{toolkit}",
            "TensorRT and the CUDA adapter need CUDA 12 or newer: a driver from 525 on",
            "sudo ubuntu-drivers install",
            ON_GPU,
        )
    return case.ok("CUDA", f"driver {driver} runs CUDA {major}{toolkit}")


def expected_cuda_major(case: Case) -> int | None:
    """The CUDA that an adapter has to match: the installed one, the release's, or the driver's."""
    board = case.board
    if board.kind == "nvidia":
        if board.driver is not None:
            return cuda_major_of_driver(board.driver)
        gpu = case.probe.gpu
        return next(iter(numbers(gpu.driver or "")), None) if gpu else None
    told = board.cuda or (board.jetpack.cuda if board.jetpack else "")
    return next(iter(numbers(told)), None)


def check_gpu(case: Case) -> Finding | None:
    """A call of CUDA in this process's interpreter. A copied tree can't make one."""
    gpu = case.probe.gpu
    if gpu is None or case.board.kind == "none" or (gpu.error and not case.has_adapter):
        return None
    if gpu.error is None:
        return case.ok("GPU", f"{gpu.name}, compute capability {gpu.compute_capability}, by {gpu.adapter}")
    if case.probe.denied:
        return case.stopper(
            "GPU",
            f"this user may not open {', '.join(case.probe.denied)}",
            "the device files belong to the groups video and render; log in again afterwards",
            'sudo usermod -aG video,render "$USER"',
            ON_GPU,
        )
    return case.stopper("GPU", _one_line(gpu.error), "no engine runs without it", _gpu_mend(case), ON_GPU)


def _gpu_mend(case: Case) -> str:
    from sattn_runtime.doctor.checks_python import adapter_command

    code = case.probe.gpu.code if case.probe.gpu else None
    if code in ("cudaErrorInsufficientDriver", None):
        return adapter_command(case)
    return "sudo dmesg | grep -i -e nvgpu -e nvrm" if case.board.kind == "jetson" else "nvidia-smi"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def check_files(case: Case) -> list[Finding]:
    """What was there and could not be read. The other findings are told as if it were missing."""
    return [
        case.advice(
            "files",
            f"'{note.path}' {note.found}",
            "the findings take it as missing",
            f"sudo chmod a+rX {quoted(case.tree.host_path(note.path))}"
            if note.mendable
            else f"ls -l {quoted(case.tree.host_path(note.path))}",
        )
        for note in case.tree.notes
    ]


def capability_of(case: Case) -> str | None:
    """Of the GPU: as CUDA says, else as its chip has it."""
    told = case.probe.gpu.compute_capability if case.probe.gpu else None
    return told or (case.board.chip.compute_capability if case.board.chip else None)


def rtx_refuses(case: Case) -> str | None:
    """Why TensorRT-RTX makes nothing for this GPU, None where it does or nobody can tell."""
    told = capability_of(case)
    if told in _RTX_CAPABILITIES or (told is None and case.board.kind != "jetson"):
        return None
    known = ", ".join(_RTX_CAPABILITIES)
    return f"does not compile for compute capability {told or 'of this Jetson'}, but for {known}"
