"""Memory, swap, the engine store and its disk, each check beside what breaks it."""

from __future__ import annotations

import pytest

from sattn_runtime.doctor.probe import StoreFolder
from tests.sattn_runtime.doctor.helpers_boards import plant
from tests.sattn_runtime.doctor.helpers_cases import diagnosed, finding, told

GIB_KB = 1024 * 1024


@pytest.mark.parametrize(
    ("available", "disk", "memory", "swap"),
    [(2.0, 0, "ok", "advice"), (1.99, 0, "advice", "advice"), (1.99, 8, "ok", "ok")],
)
def test_memory_and_swap_of_a_small_board(tmp_path, available, disk, memory, swap):
    plant("jetpack6.1-agx-orin", tmp_path)
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal:        {8 * GIB_KB} kB\nMemAvailable:    {int(available * GIB_KB)} kB\n"
    )
    rows = f"/var/swapfile file {disk * GIB_KB} 0 -2\n" if disk else ""
    (tmp_path / "proc/swaps").write_text(f"Filename Type Size Used Priority\n/dev/zram0 partition 600000 0 5\n{rows}")
    diagnosis = diagnosed(tmp_path)
    assert (finding(diagnosis, "memory").level, finding(diagnosis, "swap").level) == (memory, swap)


def test_a_large_board_needs_no_swap_file(tmp_path):
    """The control of the above: 64 GB, zram only."""
    assert told(diagnosed(tmp_path), "swap")[0] == "ok"


STORE = "/home/it's/engines"


@pytest.mark.parametrize(
    ("store", "level", "mend", "stops"),
    [
        (StoreFolder(STORE, exists=True, ours=True, writable=True), "ok", "", ()),
        (StoreFolder(STORE, writable=True), "ok", "", ()),
        (
            StoreFolder(STORE, exists=True, ours=True, others_write=True, writable=True),
            "problem",
            "chmod 700 '/home/it'\"'\"'s/engines'",
            ("tensorrt", "tensorrt-rtx", "onnxruntime"),
        ),
        (
            StoreFolder(STORE, exists=True, ours=True, writable=True, open_inside=("/a", "/b")),
            "problem",
            "chmod -R go-w '/home/it'\"'\"'s/engines'",
            ("tensorrt", "tensorrt-rtx", "onnxruntime"),
        ),
        (
            StoreFolder(STORE, exists=True, ours=False, writable=True),
            "problem",
            "sudo chown -R \"$(id -u)\" '/home/it'\"'\"'s/engines'",
            ("tensorrt", "tensorrt-rtx", "onnxruntime"),
        ),
        (
            StoreFolder(STORE, writable=False),
            "problem",
            'export SATTN_EDGE_STORE="$HOME/sattn-engines"',
            ("tensorrt", "tensorrt-rtx"),
        ),
        (
            StoreFolder(STORE, exists=True, folder=False),
            "problem",
            'export SATTN_EDGE_STORE="$HOME/sattn-engines"',
            ("tensorrt", "tensorrt-rtx"),
        ),
        (StoreFolder(None), "problem", "export SATTN_EDGE_STORE=/FOLDER", ("tensorrt", "tensorrt-rtx")),
    ],
)
def test_the_engine_store_is_private(tmp_path, store, level, mend, stops):
    diagnosis = diagnosed(tmp_path, store=store)
    assert told(diagnosis, "engine store")[::2] == (level, mend)
    assert finding(diagnosis, "engine store").stops == stops


@pytest.mark.parametrize(("free", "level"), [((1 << 28) - 1, "advice"), (1 << 28, "ok")])
def test_room_for_engines(tmp_path, free, level):
    store = StoreFolder("/var/sattn", exists=True, ours=True, writable=True, free_bytes=free)
    assert told(diagnosed(tmp_path, store=store), "disk")[0] == level
