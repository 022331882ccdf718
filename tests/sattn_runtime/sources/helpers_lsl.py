"""An LSL outlet in another process, both kept on this machine's loopback."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

# Of this run of the tests alone: others on the machine may run them too. The library reads it when it is loaded.
_CONFIG = Path(tempfile.gettempdir()) / f"sattn-lsl-{os.getpid()}.cfg"
_CONFIG.write_text(
    "[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\n"
    f"SessionID = sattn-{os.getpid()}\n[ports]\nIPv6 = disable\n[log]\nlevel = -3\n"
)
atexit.register(_CONFIG.unlink, missing_ok=True)
os.environ["LSLAPICFG"] = str(_CONFIG)

_OUTLET = """
import json, sys
import pylsl
what = json.loads(sys.stdin.readline())
channels = len(what["labels"] or what["channels"])
info = pylsl.StreamInfo(what["name"], "test", channels, what["rate_hz"], what["format"], what["name"])
if what["labels"]:
    info.set_channel_labels(what["labels"])
    info.set_channel_units(what["units"])
outlet = pylsl.StreamOutlet(info)
print("open", flush=True)
for line in sys.stdin:
    rows = json.loads(line)
    for stamp, row in rows:
        outlet.push_sample(row, stamp)
    print("sent", flush=True)
"""


class Outlet:
    """Pushes what it is told. Stamps are on its own clock, which is this machine's monotonic one."""

    def __init__(self, name: str, **what: Any) -> None:
        pytest.importorskip("pylsl", exc_type=(ImportError, RuntimeError))
        defaults = {"labels": ["c1", "c0"], "units": ["", ""], "channels": [], "rate_hz": 50.0, "format": 1}
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-c", _OUTLET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._tell({"name": name, **defaults, **what})

    def _tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline(), "the outlet is gone"

    def push(self, rows: Sequence[Sequence[float]], stamps: Sequence[float]) -> None:
        self._tell([[stamp, list(row)] for stamp, row in zip(stamps, rows, strict=True)])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
