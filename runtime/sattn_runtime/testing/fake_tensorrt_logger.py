"""Loggers and the progress monitor: the classes that a program derives from, and that the library calls."""

from __future__ import annotations

from typing import Any, ClassVar

from sattn_runtime.testing.fake_tensorrt_base import Native, NativeEnum, print_message


class Severity(NativeEnum):
    """How bad it is."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger(Native):
    """To be derived from. Whoever overrides `__init__` must call this one."""

    Severity: ClassVar[Any] = Severity
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        object.__setattr__(self, "_started", True)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # derived classes hold what they like

    def log(self, severity: Any, msg: str) -> None:  # noqa: ARG002 - to be overridden
        """Called with every message."""
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """Prints what is at least as bad as `min_severity`."""

    def __init__(self, min_severity: Any = Severity.WARNING) -> None:
        object.__setattr__(self, "_started", True)
        self._min_severity = min_severity

    @property
    def min_severity(self) -> Any:
        """The least severity that is printed."""
        return self._min_severity

    @min_severity.setter
    def min_severity(self, value: Any) -> None:
        self._min_severity = value

    def log(self, severity: Any, msg: str) -> None:
        """To stderr."""
        if int(severity) <= int(self._min_severity):
            print_message(severity.name, msg)


class IProgressMonitor(Native):
    """To be derived from: told how far a build is, and asked whether it shall go on."""

    def __init__(self) -> None:
        object.__setattr__(self, "_started", True)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
        """A phase begins, within another one or None."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002
        """A step is done; False ends the build."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:  # noqa: ARG002
        """A phase ended, done or not."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')
