"""How much a build may take, by hand; and what the kernel's files say, however odd they look."""

from __future__ import annotations

from pathlib import Path

import pytest

from sattn_runtime.tensorrt.memory import MIB, Workspace, available_bytes, oom_kills, workspace

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("free_gpu", "available", "wanted"),
    [
        (None, 6 * GIB, 3 * GIB),  # a board: GPU and CPU share one memory
        (8 * GIB, 2 * GIB, 4 * GIB),  # a card: its own memory counts, not the machine's
        (2 * GIB, 64 * GIB, 1 * GIB),
        (None, 20 * MIB, 16 * MIB),  # half of it would not do for the smallest network
        (None, 0, 16 * MIB),  # the kernel does not say
    ],
)
def test_half_of_what_is_free_where_nothing_is_asked_for(free_gpu, available, wanted):
    assert workspace(None, free_gpu, available) == Workspace(wanted)


def test_what_is_asked_for_is_given_where_it_is_there():
    assert workspace(256, None, 6 * GIB) == Workspace(256 * MIB)
    assert workspace(4, None, 6 * GIB) == Workspace(4 * MIB)  # the compiler says if that is too little
    assert workspace(6144, None, 6 * GIB) == Workspace(6 * GIB)  # all of it, and no note
    assert workspace(256, None, 0) == Workspace(256 * MIB)  # nobody knows what is free


@pytest.mark.parametrize(("free_gpu", "available"), [(None, 2 * GIB), (2 * GIB, 64 * GIB)])
def test_more_than_is_free_is_cut_and_told(free_gpu, available):
    assert workspace(2049, free_gpu, available) == Workspace(
        2 * GIB, "the workspace is limited to the 2,048 MiB that are free"
    )


MEMINFO = "MemTotal:        7990000 kB\nMemFree:          500000 kB\nMemAvailable:    3145728 kB\nHugePages_Total:  0\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (MEMINFO, 3 * GIB),
        (MEMINFO.replace("MemAvailable", "MemElsewhere"), 0),  # before Linux 3.14
        (MEMINFO.replace("3145728 kB", ""), 0),
        (MEMINFO.replace("3145728", "much"), 0),
        (f"no colon here\n\n{MEMINFO}", 3 * GIB),
        ("", 0),
    ],
)
def test_what_the_kernel_says_is_available(tmp_path: Path, text: str, wanted: int) -> None:
    file = tmp_path / "meminfo"
    file.write_text(text)
    assert available_bytes(file) == wanted


VMSTAT = "nr_free_pages 100\noom_kill 7\nthp_fault_alloc 3\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (VMSTAT, 7),
        (VMSTAT.replace("7", "0"), 0),
        (VMSTAT.replace("oom_kill", "oom_kills"), -1),  # before Linux 4.13 there is no such row
        (VMSTAT.replace("oom_kill 7", "oom_kill many"), -1),
        (VMSTAT.replace("oom_kill 7", "oom_kill"), -1),
        ("", -1),
    ],
)
def test_how_often_memory_ran_out(tmp_path: Path, text: str, wanted: int) -> None:
    file = tmp_path / "vmstat"
    file.write_text(text)
    assert oom_kills(file) == wanted


@pytest.mark.parametrize(("read", "unknown"), [(available_bytes, 0), (oom_kills, -1)])
def test_a_file_that_can_not_be_read_says_nothing(tmp_path, read, unknown):
    assert read(tmp_path / "nothing") == unknown
    assert read(tmp_path) == unknown  # a folder
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00: \x80\n")
    assert read(tmp_path / "bytes") == unknown


def test_this_machine_says_it_all():
    """The control: with the real files nothing is unknown, so the defaults are the right ones."""
    assert available_bytes() > 16 * MIB
    assert oom_kills() >= 0
