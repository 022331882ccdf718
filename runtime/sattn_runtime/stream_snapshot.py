"""Where a stream stands, so that another one can go on from there: the same decisions, to the bit."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from sattn_edge.errors import UsageError
from sattn_runtime.incremental import Incremental, IncrementalSnapshot
from sattn_runtime.ring import Ring


@dataclass(frozen=True, eq=False)
class StreamSnapshot:
    """A copy of everything about a stream that samples change. shape: [window, hop, modal], which have to be the same.

    steps: those of a stream that infers by them, None for whole windows.
    """

    shape: tuple[int, int, int]
    state: dict[str, Any]
    steps: IncrementalSnapshot | None


class Resumable:
    """A stream whose state can be copied and put back. It is copied as one: what its parts share they share there."""

    ring: Ring
    _steps: Incremental | None
    _SHARED: ClassVar[frozenset[str]] = frozenset({"engine", "options", "_steps", "_moments"})
    """What samples don't change, or what is copied in its own way."""

    def snapshot(self) -> StreamSnapshot:
        """Where the stream stands; to be called between two chunks."""
        state = {name: value for name, value in vars(self).items() if name not in self._SHARED}
        steps = None if self._steps is None else self._steps.snapshot()
        return StreamSnapshot(self._windows, copy.deepcopy(state), steps)

    def restore(self, snapshot: StreamSnapshot) -> None:
        """Goes on from there, as often as wanted.

        Raises:
            UsageError: it is of other windows, or of another plan; the stream is as it was.
        """
        if snapshot.shape != self._windows:
            raise UsageError(
                "snapshot",
                f"got [window, hop, channels] {list(snapshot.shape)}",
                f"the stream has {list(self._windows)}",
            )
        if (snapshot.steps is None) != (self._steps is None):
            raise UsageError("snapshot", "one of it and the stream infers by steps", "both, or neither")
        if self._steps is not None and snapshot.steps is not None:
            self._steps.restore(snapshot.steps)
        vars(self).update(copy.deepcopy(snapshot.state))

    @property
    def _windows(self) -> tuple[int, int, int]:
        return (self.ring.window, self.ring.hop, self.ring.modal)
