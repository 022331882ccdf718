"""What a child of the doctor does: import one thing, and answer in one line of JSON."""

from __future__ import annotations

import importlib
import sys

import msgspec

from sattn_edge.errors import SattnEdgeError


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a module: its version and its folder. Of CUDA: the first device. Of either: why not, and CUDA's name of it."""

    version: str | None = None
    where: str | None = None
    name: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    adapter: str | None = None
    error: str | None = None
    code: str | None = None


def main(what: str) -> None:
    """Answers on stdout, on a line of its own: importing prints what it likes before."""
    # A module of NVIDIA's can fail with anything, SystemExit included; all of it is an answer.
    try:
        found = _cuda() if what == "cuda" else _module(what)
    except BaseException as error:  # noqa: BLE001
        found = Answer(error=_told(error), code=_code(error))
    sys.stdout.write("\n" + msgspec.json.encode(found).decode() + "\n")
    sys.stdout.flush()


def _module(name: str) -> Answer:
    module = importlib.import_module(name)
    # A folder of that name without anything in it imports, too.
    if getattr(module, "__file__", None) is None:
        return Answer(error=f"'{name}' is a folder without a module in it")
    return Answer(version=str(getattr(module, "__version__", "unknown")), where=str(module.__file__))


def _cuda() -> Answer:
    from sattn_runtime.cuda import open_cuda

    cuda = open_cuda()
    try:
        info = cuda.info
        return Answer(
            name=info.name, compute_capability=info.compute_capability, driver=info.driver, adapter=info.adapter
        )
    finally:
        cuda.close()


def _told(error: BaseException) -> str:
    """The error's first line; of its kind, where it says nothing."""
    if isinstance(error, SattnEdgeError):
        return f"{error.subject}: {error.found}"
    lines = str(error).strip().splitlines()
    if isinstance(error, ModuleNotFoundError):
        return f"there is no module '{error.name}'"
    return lines[0] if lines else type(error).__name__


def _code(error: BaseException) -> str | None:
    code = getattr(error, "code", None)
    return code if isinstance(code, str) else None
