"""`tegrastats` as a meter of power, where no file of a Jetson tells it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from time import monotonic_ns
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from sattn_edge.errors import InputError
from sattn_runtime.bench.gauges import INTERVAL_S
from sattn_runtime.bench.tegrastats import TegraStats, parse_tegrastats

COMMAND = "tegrastats"
_PATIENCE_S = 2.0


class Meter:
    """Runs the tool and keeps its lines with the times they came, as a context manager.

    command: what to run; None runs nothing, and nothing is read.
    """

    def __init__(self, command: list[str] | None) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._lines: list[tuple[int, bytes]] = []

    def __enter__(self) -> Meter:
        if self._command is not None:
            with contextlib.suppress(OSError):  # a tool that can't be started tells nothing
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
                self._thread = threading.Thread(target=self._read, name="sattn-bench-tegrastats", daemon=True)
                self._thread.start()
        return self

    def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the meter reads before it runs")
        for line in self._process.stdout:
            self._lines.append((monotonic_ns(), line))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None or self._thread is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_PATIENCE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def readings(self) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """(times int64 [n] in monotonic ns, rail -> watts float64 [n]). A line that can't be read tells nothing."""
        told: list[tuple[int, TegraStats]] = []
        for at, line in self._lines:
            with contextlib.suppress(InputError):
                told.append((at, parse_tegrastats(line.decode(errors="replace"))))
        names = dict.fromkeys(name for _, stats in told for name in stats.rails_w)
        rails = {name: np.array([s.rails_w.get(name, np.nan) for _, s in told], np.float64) for name in names}
        return np.array([at for at, _ in told], np.int64), rails


def meter(*, wanted: bool) -> Meter:
    """A meter that runs the board's tool, where it is wanted and there is one."""
    path = shutil.which(COMMAND) if wanted else None
    return Meter(None if path is None else [path, "--interval", str(round(INTERVAL_S * 1000))])
