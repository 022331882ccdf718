"""Memory, swap, and the engine store: whether a build fits, and whether what it leaves is safe to run."""

from __future__ import annotations

import re

from sattn_edge.engine_store import VARIABLE
from sattn_runtime.doctor.findings import BACKENDS, ON_GPU, Case, Finding, quoted
from sattn_runtime.doctor.tree import Tree

_GIB = 1024**3
# A build loads the whole of TensorRT's builder and its kernels beside the graph. Not measured on a board; a margin.
BUILD_NEEDS_BYTES = 2 * _GIB
SMALL_BOARD_BYTES = 9 * _GIB  # "8 GB" and below
STORE_NEEDS_BYTES = _GIB // 4
SWAP_COMMANDS = (
    "sudo fallocate -l 8G /var/swapfile && sudo chmod 600 /var/swapfile && "
    "sudo mkswap /var/swapfile && sudo swapon /var/swapfile"
)


def check_memory(case: Case) -> Finding | None:
    """What is available to a build. A Jetson's GPU has no memory of its own."""
    total, available = read_memory(case.tree)
    if total is None or available is None:
        return None
    told = f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB available"
    swap = read_swap(case.tree)
    if available + (swap[0] if swap else 0) >= BUILD_NEEDS_BYTES or case.unsupported or case.board.kind == "none":
        return case.ok("memory", told)
    if case.board.kind == "nvidia":
        return case.advice("memory", told, "a build takes about 2 GiB beside the GPU's", "ps aux --sort=-rss | head")
    return case.advice(
        "memory",
        told,
        "a build takes about 2 GiB, shared by CPU and GPU, and the kernel ends it where there is less. The command "
        "ends the desktop and all that runs on it until the next boot",
        "sudo systemctl isolate multi-user.target",
    )


def check_swap(case: Case) -> Finding | None:
    """Swap on a small board. zram is memory again: it adds none for a build."""
    total, _ = read_memory(case.tree)
    found = read_swap(case.tree)
    if case.board.kind != "jetson" or case.unsupported or found is None or total is None:
        return None
    disk, zram = found
    told = f"{disk / _GIB:.1f} GiB on disk, {zram / _GIB:.1f} GiB of compressed memory (zram)"
    if disk or total >= SMALL_BOARD_BYTES:
        return case.ok("swap", told)
    why = "a build that runs out of memory is ended by the kernel; a swap file lets it finish. Running needs none"
    return case.advice("swap", told, why, SWAP_COMMANDS)


def read_swap(tree: Tree) -> tuple[int, int] | None:
    """(on disk, in compressed memory) bytes of /proc/swaps, None where it can't be read."""
    text = tree.text("proc/swaps")
    if text is None:
        return None
    found = [re.match(r"(\S+)\s+\S+\s+(\d{1,12})\s", line) for line in text.splitlines()[1:]]
    sizes = [("zram" in row[1], int(row[2]) * 1024) for row in found if row]
    return sum(size for zram, size in sizes if not zram), sum(size for zram, size in sizes if zram)


def read_memory(tree: Tree) -> tuple[int | None, int | None]:
    """(total, available) bytes of /proc/meminfo."""
    rows = dict(re.findall(r"^(\w+):\s*(\d{1,12}) kB$", tree.text("proc/meminfo") or "", re.MULTILINE))
    total, available = (rows.get(name) for name in ("MemTotal", "MemAvailable"))
    return (None if total is None else int(total) * 1024), (None if available is None else int(available) * 1024)


def check_store(case: Case) -> Finding:
    """Engines are code: the folder must be this user's own, and nobody else may write to it."""
    store = case.probe.store
    if store.path is None:
        return _no_store(case, "there is no home folder to keep engines in")
    path = store.path
    if store.exists and not store.folder:
        return _no_store(case, f"'{path}' is not a folder")
    if store.ours is False:
        return _refused(case, f"'{path}' belongs to another user", f'sudo chown -R "$(id -u)" {quoted(path)}')
    if store.others_write:
        return _refused(case, f"others can write '{path}'", f"chmod 700 {quoted(path)}")
    if store.open_inside:
        found = f"others can write '{store.open_inside[0]}'"
        more = len(store.open_inside) - 1
        return _refused(case, found + (f" and {more} more" if more else ""), f"chmod -R go-w {quoted(path)}")
    if store.writable is False:
        return _no_store(case, f"'{path}' can't be written by this user")
    return case.ok("engine store", path if store.exists else f"{path}, not made yet")


def _no_store(case: Case, found: str) -> Finding:
    command = f'export {VARIABLE}="$HOME/sattn-engines"' if case.probe.store.path else f"export {VARIABLE}=/FOLDER"
    why = "a build keeps its engine there; name a folder of your own"
    return case.stopper("engine store", found, why, command, ON_GPU)


def _refused(case: Case, found: str, mend: str) -> Finding:
    """No engine is looked up in such a folder, of any backend."""
    return case.stopper("engine store", found, "what lies there is run as this user", mend, BACKENDS)


def check_disk(case: Case) -> Finding | None:
    """Room for engines where the store is, or will be."""
    free = case.probe.store.free_bytes
    if free is None:
        return None
    told = f"{free / _GIB:.1f} GiB free where the engine store is"
    if free >= STORE_NEEDS_BYTES:
        return case.ok("disk", told)
    return case.advice("disk", told, "an engine takes some MB, a build's cache more", "sattn-build --prune")
