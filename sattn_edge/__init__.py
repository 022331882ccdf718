"""sattn-edge: trained spatial-attention networks, from a checkpoint to decisions on a live sensor stream.

This is the core that the stages share. Importing it loads nothing; each name below is fetched when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sattn_edge._version import __version__

if TYPE_CHECKING:
    from sattn_edge.contract import Channel, Contract, load_contract
    from sattn_edge.engine import Engine, load_engine
    from sattn_edge.errors import SattnEdgeError
    from sattn_edge.model_file import ModelFile, load_model_file

__all__ = [
    "Channel",
    "Contract",
    "Engine",
    "ModelFile",
    "SattnEdgeError",
    "__version__",
    "load_contract",
    "load_engine",
    "load_model_file",
]

_WHERE = {
    "Channel": "sattn_edge.contract",
    "Contract": "sattn_edge.contract",
    "load_contract": "sattn_edge.contract",
    "Engine": "sattn_edge.engine",
    "load_engine": "sattn_edge.engine",
    "SattnEdgeError": "sattn_edge.errors",
    "ModelFile": "sattn_edge.model_file",
    "load_model_file": "sattn_edge.model_file",
}


def __getattr__(name: str) -> Any:
    """Fetches a public name from its module (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'sattn_edge' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
