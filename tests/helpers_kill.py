"""A process that dies at one chosen system call, played within this one."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

_CALLS = ("open", "write", "replace", "ftruncate", "fsync", "fchmod", "unlink")


class KilledError(BaseException):
    """Not an Exception: what is killed handles nothing."""


class Killer:
    """Lets some system calls on files through, then none; the first of those is done by half, if it is a write.

    What was open is closed at the end, as the kernel would, locks and all.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        self.calls = 0
        self.left: int | None = None
        self.dead = False
        self._opened: list[int] = []
        self._random = random.Random(seed)
        for name in _CALLS:
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and "j.jsonl" not in str(args[0]):
                return call(*args, **kwargs)  # of libraries
            if self.dead:
                raise KilledError
            self.calls += 1
            if self.left is not None and self.calls > self.left:
                self.dead = True
                if name == "write":
                    call(args[0], bytes(args[1])[: self._random.randint(0, len(args[1]))])
                raise KilledError
            found = call(*args, **kwargs)
            if name == "open":
                self._opened.append(found)
            return found

        return counted

    def arm(self, left: int | None) -> None:
        """Begins a new life of so many calls; None is for ever."""
        for descriptor in self._opened:
            with contextlib.suppress(OSError):  # it was closed in good order
                os.close(descriptor)
        self._opened.clear()
        self.calls, self.left, self.dead = 0, left, False
