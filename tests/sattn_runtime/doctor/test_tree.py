"""Reading below a root: nothing outside it, nothing endless, nothing that waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sattn_runtime.doctor.tree import LIMIT_BYTES, Tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/inside").write_text("inside\n")
    (tmp_path / "outside").write_text("outside\n")
    return folder


def test_an_absolute_link_stays_inside(root):
    (root / "link").symlink_to("/etc/inside")
    assert Tree(root).text("link") == "inside\n"


@pytest.mark.parametrize("target", ["../outside", "etc/../../outside", "{tmp}/outside"])
def test_no_link_leads_out(root, target, tmp_path):
    (root / "link").symlink_to(target.format(tmp=tmp_path))
    assert (root / "link").read_text() == "outside\n"  # the control: an ordinary open follows it
    assert Tree(root).text("link") is None


@pytest.mark.parametrize("path", ["../outside", "/../outside", "etc/../../outside"])
def test_no_path_leads_out(root, path):
    assert Tree(root).text(path) is None


def test_a_link_to_a_folder_is_followed_and_listed(root):
    (root / "usr/local/cuda-12.6").mkdir(parents=True)
    (root / "usr/local/cuda-12.6/version.json").write_text("{}")
    (root / "usr/local/cuda").symlink_to("/etc/alternatives/cuda")
    (root / "etc/alternatives").mkdir()
    (root / "etc/alternatives/cuda").symlink_to("../../usr/local/cuda-12.6")
    tree = Tree(root)
    assert tree.text("usr/local/cuda/version.json") == "{}"
    assert tree.glob("usr/local/cuda/*.json") == ["/usr/local/cuda/version.json"]


def test_a_circle_of_links_ends(root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    tree = Tree(root)
    assert tree.text("a") is None
    assert [(note.path, note.found) for note in tree.notes] == [("/a", "is a link that leads back to itself")]


def test_forty_links_are_followed(root):
    (root / "0").symlink_to("etc/inside")
    for i in range(1, 41):
        (root / str(i)).symlink_to(str(i - 1))
    assert Tree(root).text("39") == "inside\n"
    assert Tree(root).text("40") is None


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_not(root):
    (root / "etc/full").write_bytes(b"x" * LIMIT_BYTES)
    (root / "etc/over").write_bytes(b"x" * (LIMIT_BYTES + 1))
    tree = Tree(root)
    assert len(tree.text("etc/full") or "") == LIMIT_BYTES
    assert tree.text("etc/over") is None
    assert [(n.path, n.found) for n in tree.notes] == [("/etc/over", "is larger than 64 KiB, which it never is")]


def test_a_huge_file_is_not_read_whole(root, monkeypatch):
    with (root / "etc/huge").open("wb") as file:
        file.truncate(1 << 40)
    read = 0
    real = os.read

    def counted(handle: int, count: int) -> bytes:
        nonlocal read
        data = real(handle, count)
        read += len(data)
        return data

    monkeypatch.setattr(os, "read", counted)
    assert Tree(root).text("etc/huge") is None
    assert read == LIMIT_BYTES + 1


def test_a_pipe_is_not_waited_for(root):
    os.mkfifo(root / "etc/pipe")
    tree = Tree(root)
    assert tree.text("etc/pipe") is None
    assert [(n.path, n.found) for n in tree.notes] == [("/etc/pipe", "is not a regular file")]


def test_a_folder_in_place_of_a_file(root):
    tree = Tree(root)
    assert tree.text("etc") is None
    assert tree.notes[0].found == "is not a regular file"


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_note(root):
    (root / "etc/inside").chmod(0)
    tree = Tree(root)
    assert tree.text("etc/inside") is None
    assert [(n.found, n.mendable) for n in tree.notes] == [("can't be read (Permission denied)", True)]


def test_a_refused_read_is_a_note(root, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    tree = Tree(root)
    assert tree.text("etc/inside") is None
    assert [(n.path, n.found, n.mendable) for n in tree.notes] == [
        ("/etc/inside", "can't be read (Permission denied)", True)
    ]


def test_what_is_missing_is_no_note(root):
    tree = Tree(root)
    assert tree.text("etc/none") is None
    assert tree.text("etc/inside/none") is None
    assert tree.glob("none/*") == []
    assert tree.notes == ()


@pytest.mark.parametrize(
    ("content", "line", "number"),
    [
        (b"306000000\n", "306000000", 306000000),
        (b"NVIDIA Jetson\0", "NVIDIA Jetson", None),
        (b"\n\n first \nsecond\n", "first", None),
        (b"a\x1b[31mred\n", "a[31mred", None),
        (b"\xff\xfe", "\ufffd\ufffd", None),
        (b"", None, None),
        (b"\0\0", None, None),
        (b"\x1b\x07", None, None),
        (b"-1\n", "-1", None),
        (b"1" * 40, "1" * 40, None),
        ("\u0663".encode(), "\u0663", None),
    ],
)
def test_lines_and_numbers(root, content, line, number):
    (root / "etc/file").write_bytes(content)
    assert Tree(root).line("etc/file") == line
    assert Tree(root).number("etc/file") == number


def test_glob_matches_within_a_name(root):
    for name in ("devfreq/a.gpu/min_freq", "devfreq/b.gpu/min_freq", "devfreq/c.vic/max_freq"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("1")
    assert Tree(root).glob("devfreq/*.gpu/min_freq") == ["/devfreq/a.gpu/min_freq", "/devfreq/b.gpu/min_freq"]
    assert Tree(root).glob("*/min_freq") == []


def test_the_running_machine_is_known_by_its_root(root):
    assert Tree("/").live
    assert Tree("/etc/..").live
    assert not Tree(root).live
