"""What systemd is told: that the run is ready, alive, what it is at, and that it stops.

The protocol is `sd_notify(3)`: datagrams of `NAME=VALUE` lines to the socket that NOTIFY_SOCKET names. The watchdog is
fed from the loop itself, so it goes hungry when the loop hangs: in the engine, in the source, or on the disk.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import TYPE_CHECKING

from sattn_runtime.decision import Decision
from sattn_runtime.observer import Observer

if TYPE_CHECKING:
    from sattn_runtime.run_result import RunResult

_STATUS_NS = 10_000_000_000


class Notifier(Observer):
    """Tells the service manager. Nothing it meets ends the run; what it can't send it says once."""

    def __init__(self, address: str, watchdog_us: int | None, tell: Callable[[str], None]) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # Half of what is allowed, as sd_watchdog_enabled(3) advises.
        self._feed_ns = None if watchdog_us is None else watchdog_us * 1000 // 2
        self._tell, self._told = tell, False
        self._fed_ns = self._status_ns = 0
        self._windows = 0
        self._last = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], tell: Callable[[str], None]) -> Notifier | None:
        """One for the manager that started this process; None where none asks for notice."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return None
        return cls(address, _watchdog_us(environment), tell)

    def begin(self, result: RunResult) -> None:
        """READY, and what runs."""
        info = result.engine.info
        self._send(f"READY=1\nSTATUS={info.backend} {info.precision}, waiting for the first window")
        self._fed_ns = self._status_ns = monotonic_ns()

    def window(self, stream: str, decision: Decision, emit_ns: int, done_ns: int) -> None:  # noqa: ARG002
        """Remembers what STATUS will say."""
        self._windows += 1
        self._last = decision.label or decision.reason or ""

    def tick(self, now_ns: int) -> None:
        """WATCHDOG where one is due, STATUS every ten seconds."""
        if self._feed_ns is not None and now_ns - self._fed_ns >= self._feed_ns:
            self._fed_ns = now_ns
            self._send("WATCHDOG=1")
        if now_ns - self._status_ns >= _STATUS_NS:
            self._status_ns = now_ns
            self._send(f"STATUS={self._windows:,} windows, last {self._last or 'none'}")

    def stopping(self) -> None:
        """STOPPING."""
        self._send("STOPPING=1\nSTATUS=draining")

    def _send(self, text: str) -> None:
        try:
            # Never waits: a manager that does not read must not stop the loop.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
                out.sendto(text.encode(), self._address)
        except OSError as error:  # full (it is told again soon) or gone
            if not self._told:
                self._told = True
                self._tell(f"note: systemd can't be told '{text.splitlines()[0]}' ({error.strerror or error})")


def _watchdog_us(environment: Mapping[str, str]) -> int | None:
    """How often systemd wants a sign, None where it does not.

    WATCHDOG_PID says whose sign it wants. A shell that runs us in a pipeline is our parent, and can't give one.
    """
    try:
        microseconds = int(environment["WATCHDOG_USEC"])
        process = int(environment.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return microseconds if microseconds > 0 and process in (os.getpid(), os.getppid()) else None
