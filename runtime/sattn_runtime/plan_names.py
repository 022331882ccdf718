"""What `--incremental` takes, without what it takes to do it."""

from __future__ import annotations

AUTO, OFF = "auto", "off"
PLANS = ("edges", "stateful")  # those of sattn_edge.incremental
INCREMENTAL = (AUTO, OFF, *PLANS)
