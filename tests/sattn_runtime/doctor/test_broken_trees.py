"""Trees in which nothing can be trusted: whatever their files hold, there is a diagnosis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sattn_runtime.doctor import examine, report
from sattn_runtime.doctor.findings import BACKENDS
from tests.sattn_runtime.doctor.helpers_boards import plant
from tests.sattn_runtime.doctor.helpers_cases import finding, told

BOARD = "jetpack6.2-orin-nano"
# What is read of it; the links, too, are replaced by files.
FILES = [
    "etc/nv_tegra_release",
    "etc/nvpmodel.conf",
    "home/nvidia/.venv/pyvenv.cfg",
    "proc/device-tree/compatible",
    "proc/device-tree/model",
    "proc/meminfo",
    "proc/swaps",
    "sys/class/devfreq/17000000.ga10b/min_freq",
    "usr/bin/python3",
    "usr/local/cuda/version.json",
    "var/lib/dpkg/status",
    "var/lib/nvpmodel/status",
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(BOARD, tmp_path_factory.mktemp("board"))


def test_an_empty_tree(tmp_path):
    diagnosis = examine(tmp_path)
    assert (diagnosis.board.kind, diagnosis.board.l4t, diagnosis.probe.python) == ("none", None, None)
    assert told(diagnosis, "Python") == ("problem", "none was found", "sudo apt install python3-venv")
    assert not any(diagnosis.can_run(backend) for backend in BACKENDS)


@pytest.mark.parametrize("path", FILES)
def test_a_missing_file_is_no_error(path, tmp_path):
    (plant(BOARD, tmp_path) / path).unlink()
    diagnosis = examine(tmp_path)
    assert diagnosis.board.kind == "jetson"
    assert not [f for f in diagnosis.findings if f.topic == "files"]


@pytest.mark.parametrize("path", ["etc/nv_tegra_release", "proc/meminfo", "proc/device-tree/model"])
def test_a_huge_file_is_told_and_taken_as_missing(path, tmp_path):
    (plant(BOARD, tmp_path) / path).unlink()
    with (tmp_path / path).open("wb") as file:
        file.truncate(1 << 35)
    found = finding(examine(tmp_path), "files")
    assert (found.level, found.found) == ("advice", f"'/{path}' is larger than 64 KiB, which it never is")
    assert found.mend == f"ls -l {tmp_path}/{path}"
    # The package says the L4T where the file does not.
    assert examine(tmp_path).board.l4t == (36, 4, 3)


def test_a_file_that_may_not_be_read_is_told_with_the_command(tmp_path, monkeypatch):
    """As root everything may be read, so the refusal is made here."""
    plant(BOARD, tmp_path)
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        if str(path).endswith("nv_tegra_release"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    found = finding(examine(tmp_path), "files")
    assert found.found == "'/etc/nv_tegra_release' can't be read (Permission denied)"
    assert found.mend == f"sudo chmod a+rX {tmp_path}/etc/nv_tegra_release"


def test_a_pipe_and_a_circle_of_links_are_told(tmp_path):
    plant(BOARD, tmp_path)
    for path in ("proc/meminfo", "proc/swaps"):
        (tmp_path / path).unlink()
    os.mkfifo(tmp_path / "proc/meminfo")
    (tmp_path / "proc/swaps").symlink_to("swaps")
    found = {f.found for f in examine(tmp_path).findings if f.topic == "files"}
    assert "'/proc/meminfo' is not a regular file" in found
    assert "'/proc/swaps' is a link that leads back to itself" in found


def test_nothing_of_a_tree_steers_the_terminal(tmp_path):
    plant(BOARD, tmp_path)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Board\x1b]0;owned\x07\x1b[2J\0")
    (tmp_path / "etc/nvpmodel.conf").write_bytes(b"< POWER_MODEL ID=1 NAME=15W\x1b[2J >\n")
    text = "\n".join(report.as_text(examine(tmp_path)))
    assert "Board" in text
    assert all(c == "\n" or c.isprintable() for c in text)


def test_a_path_of_a_tree_is_no_command(tmp_path):
    """A folder's name that would run something is quoted in the command that is to be copied."""
    evil = tmp_path / "home/$(touch owned)/.cache/sattn-edge/engines"
    evil.mkdir(parents=True)
    evil.chmod(0o777)
    assert told(examine(tmp_path), "engine store")[2] == "chmod 700 '/home/$(touch owned)/.cache/sattn-edge/engines'"


@given(path=st.sampled_from(FILES), content=st.binary(max_size=400))
def test_any_bytes_in_any_file(planted, path, content):
    with_bytes(planted, path, content)


@given(path=st.sampled_from(FILES), data=st.data())
def test_any_damage_to_any_file(planted, path, data):
    """Close to what is read: a stretch of the file replaced, so that the parsers get past their first lines."""
    file = planted / path
    was = b"python3.10" if file.is_symlink() else file.read_bytes()
    start = data.draw(st.integers(0, len(was)))
    end = data.draw(st.integers(start, len(was)))
    piece = data.draw(
        st.one_of(st.binary(max_size=20), st.text(alphabet="0123456789.=<>:\n ", max_size=20).map(str.encode))
    )
    with_bytes(planted, path, was[:start] + piece + was[end:])


def with_bytes(planted: Path, path: str, content: bytes) -> None:
    file = planted / path
    link = file.readlink() if file.is_symlink() else None
    was = None if link else file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    try:
        for backend in (None, *BACKENDS):
            diagnosis = examine(planted, backend)
            assert report.as_text(diagnosis)
            assert set(report.as_data(diagnosis)["can_run"]) == set(BACKENDS)
    finally:
        file.unlink()
        if link:
            file.symlink_to(link)
        else:
            file.write_bytes(was or b"")
