"""`--realtime`: what a loop can ask of the kernel and the interpreter so that nothing else delays it.

| what | how |
|---|---|
| scheduler | SCHED_FIFO, below the kernel's interrupt threads: no other ordinary process runs while a window is due |
| memory | mlockall: what was touched once is never paged out; nothing more is faulted in than is used |
| collector | garbage from before the first window is frozen, and none is searched for while windows are decided |
| cpu | `--cpu N`: the loop and the threads it starts stay on these cores |

The scheduler is for the loop, the engine's threads and those that read sources: they stamp arrivals, from which latency
counts. What is begun once the loop is about to start is ordinary (journal sync, metrics, trace, picture): none of it
may delay a window.

Each may be refused (a user without the rights, a kernel or a container without the feature). Then the run goes on
without it, and says so with the line that would allow it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sattn_edge.errors import UsageError

PRIORITY = 40  # interrupt threads of a real-time kernel have 50
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14


@dataclass(frozen=True)
class RealtimeOptions:
    """What is asked for. cpus: cores to stay on; none is any."""

    realtime: bool = False
    cpus: tuple[int, ...] = ()


@dataclass
class Granted:
    """What came of it: for each thing asked for, in words, what is in force; and what was refused, and why."""

    given: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def parse_cpus(text: str | None) -> tuple[int, ...]:
    """`2` or `2,3` as cores.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return ()
    try:
        cpus = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError("--cpu", f"got '{text}'", "a core, or several: 2,3") from error
    if min(cpus) < 0:
        raise UsageError("--cpu", f"got '{text}'", "cores are numbered from 0")
    return cpus


class Realtime:
    """Asks, remembers what was before, and puts it back.

    `before_engine` comes first, since threads inherit scheduler and cores from whoever starts them: the engine's and
    the source's then have them too. `before_loop` comes when everything that is made once is made; threads that are
    started from then on have the cores only.
    """

    def __init__(self, options: RealtimeOptions, tell: Callable[[str], None]) -> None:
        self.granted = Granted()
        self._options, self._tell = options, tell
        self._undo: list[Callable[[], object]] = []

    def before_engine(self) -> None:
        """Cores and scheduler."""
        if self._options.cpus:
            self._ask("cpu", self._pin)
        if self._options.realtime:
            self._ask("scheduler", self._schedule)

    def before_loop(self) -> None:
        """Memory and collector; the scheduler for no thread to come."""
        if self._options.realtime:
            self._keep_to_itself()
            self._ask("memory", self._lock)
            self._ask("collector", self._freeze)

    def end(self) -> None:
        """Puts back what was, the last first. What can't be put back ends with the process."""
        while self._undo:
            with contextlib.suppress(OSError):
                self._undo.pop()()

    def _ask(self, what: str, how: Callable[[], str]) -> None:
        try:
            self.granted.given[what] = how()
        except OSError as error:
            reason = error.strerror or str(error)
            self.granted.refused[what] = reason
            self._tell(f"note: --{'cpu' if what == 'cpu' else 'realtime'}: {what} refused: {reason}")

    def _pin(self) -> str:
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, self._options.cpus)
        except OSError as error:
            there = ",".join(map(str, sorted(before)))
            raise OSError(error.errno, f"{error.strerror}; this process may use {there}") from error
        self._undo.append(lambda: os.sched_setaffinity(0, before))
        return ",".join(map(str, sorted(os.sched_getaffinity(0))))

    def _schedule(self) -> str:
        policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        except OSError as error:
            todo = f"as a service: LimitRTPRIO={PRIORITY}; else: sudo setcap cap_sys_nice=ep on the interpreter"
            raise OSError(error.errno, f"{error.strerror}; {todo}") from error
        self._undo.append(lambda: _put_back(policy, parameter))
        return f"SCHED_FIFO, priority {PRIORITY}"

    def _keep_to_itself(self) -> None:
        if "scheduler" in self.granted.given:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))

    def _lock(self) -> str:
        if not _may_lock():
            # With a limit every later allocation beyond it would fail, and that would end the run.
            todo = "as a service: LimitMEMLOCK=infinity; else: ulimit -l unlimited"
            raise OSError(0, f"locked memory is limited; {todo}")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._undo.append(libc.munlockall)
        return "locked"

    def _freeze(self) -> str:
        was_on = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        self._undo += [gc.unfreeze] + ([gc.enable] if was_on else [])
        return "off while windows are decided"


def _put_back(policy: int, parameter: os.sched_param) -> None:
    try:
        os.sched_setscheduler(0, policy, parameter)
    except PermissionError:  # an ordinary user can't take the flag away again
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, parameter)


def _may_lock() -> bool:
    """Whether any amount may be locked: by the limit, raised as far as it goes, or by the right to pass over it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return True
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return True
    for line in _status():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def _status() -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from Path("/proc/self/status").read_text().splitlines()
