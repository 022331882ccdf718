"""Reading files of a machine below one root: the running one, or a copy of another's.

Links are followed as that machine would follow them, so an absolute one stays inside the root and none leads out of
it. Only regular files are opened, never for longer than a limit, so that a pipe, a device or a file that is far too
large can't stop or fill anything. What is there and can't be used is kept as a note.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from dataclasses import dataclass
from pathlib import Path

LIMIT_BYTES = 64 * 1024
_MAX_LINKS = 40  # as many as Linux follows
_MAX_ENTRIES = 4096  # of one folder


@dataclass(frozen=True)
class Note:
    """A file that is there and can't be used. path: as the machine names it; mendable: by a change of its rights."""

    path: str
    found: str
    mendable: bool = False


class Tree:
    """A file tree. Paths are relative to its root, with or without a leading slash."""

    def __init__(self, root: str | Path = "/") -> None:
        self.root = Path(root).resolve()
        self._notes: dict[str, Note] = {}

    @property
    def live(self) -> bool:
        """Whether this is the running machine."""
        return str(self.root) == "/"

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was there and could not be read, in the order it was met."""
        return tuple(self._notes.values())

    def host_path(self, path: str) -> str:
        """Where a path of the tree lies on this machine, links left as they are."""
        return str(self.root / path.lstrip("/"))

    def text(self, path: str, limit: int = LIMIT_BYTES) -> str | None:
        """A file's text, `None` where there is none or it can't be used; NUL bytes end nothing and stay in."""
        data = self._read(path, limit)
        return None if data is None else data.decode("utf-8", errors="replace")

    def line(self, path: str) -> str | None:
        """The first line of a small file without NUL bytes and spaces around it; None where it is empty."""
        lines = (self.text(path) or "").replace("\0", "\n").strip().splitlines()
        return "".join(c for c in lines[0].strip() if c.isprintable()) or None if lines else None

    def number(self, path: str) -> int | None:
        """A file that holds one number, as those of /sys do; None where it holds anything else."""
        text = (self.line(path) or "").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def glob(self, pattern: str) -> list[str]:
        """Paths that exist and match, sorted. `*` and `?` stay within one name; links to folders are followed."""
        found = [""]
        for part in pattern.strip("/").split("/"):
            if not set(part) & set("*?["):
                found = [f"{path}/{part}" for path in found]
                continue
            found = [
                f"{path}/{name}" for path in found for name in self._names(path) if fnmatch.fnmatchcase(name, part)
            ]
        return sorted(path for path in found if self.exists(path))

    def children(self, path: str) -> list[str]:
        """Paths of what lies in a folder, sorted."""
        return [f"{path.rstrip('/')}/{name}" for name in self._names(path)]

    def exists(self, path: str) -> bool:
        """Whether anything is there, links followed."""
        return self.status(path) is not None

    def status(self, path: str) -> os.stat_result | None:
        """The status of what is there, links followed; None where there is nothing or it can't be told."""
        resolved = self._resolve(path)
        try:
            return None if resolved is None else os.lstat(resolved)
        except (OSError, ValueError):
            return None

    def link(self, path: str) -> str | None:
        """Where a symbolic link points to, as it is written."""
        try:
            return str(Path(self.host_path(path)).readlink())
        except (OSError, ValueError):
            return None

    def _names(self, path: str) -> list[str]:
        resolved = self._resolve(path or "/")
        try:
            names = sorted(entry.name for entry in Path(resolved).iterdir()) if resolved is not None else []
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._note(path or "/", f"can't be listed ({error.strerror})", isinstance(error, PermissionError))
            return []
        return names[:_MAX_ENTRIES]

    def _read(self, path: str, limit: int) -> bytes | None:
        resolved = self._resolve(path)
        if resolved is None:
            return None
        try:
            # O_NONBLOCK: opening a pipe nobody writes to would wait; the check of its kind comes after.
            handle = os.open(resolved, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            self._note(path, f"can't be read ({error.strerror})", isinstance(error, PermissionError))
            return None
        try:
            return self._content(path, handle, limit)
        finally:
            os.close(handle)

    def _content(self, path: str, handle: int, limit: int) -> bytes | None:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            self._note(path, "is not a regular file")
            return None
        data = b""
        try:
            while len(data) <= limit and (part := os.read(handle, limit + 1 - len(data))):
                data += part
        except OSError as error:  # files of /sys answer some reads with an error
            self._note(path, f"can't be read ({error.strerror})")
            return None
        if len(data) > limit:
            self._note(path, f"is larger than {limit // 1024} KiB, which it never is")
            return None
        return data

    def _note(self, path: str, found: str, mendable: bool = False) -> None:
        name = "/" + path.strip("/")
        self._notes.setdefault(name, Note(name, found, mendable))

    def _resolve(self, path: str) -> str | None:
        """The path on this machine with every link replaced, or None where links go round in circles."""
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            try:
                target = str(self.root.joinpath(*done, part).readlink())
            except (OSError, ValueError):  # no link: a file, a folder or nothing
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                self._note(path, "is a link that leads back to itself")
                return None
            if target.startswith("/"):
                done = []
            todo += [name for name in reversed(target.split("/")) if name not in ("", ".")]
        return str(self.root.joinpath(*done))
