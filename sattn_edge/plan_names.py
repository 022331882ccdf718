"""How the windows of a stream may be inferred, by name, without what it takes to do it."""

from __future__ import annotations

from typing import Literal

WindowPlan = Literal["full", "edges", "stateful"]
FULL: WindowPlan = "full"  # whole windows
PLANS: tuple[WindowPlan, ...] = ("edges", "stateful")  # those of sattn_edge.incremental
AUTO, OFF = "auto", "off"
INCREMENTAL = (AUTO, OFF, *PLANS)
"""What `--incremental` takes."""
