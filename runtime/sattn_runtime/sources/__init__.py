"""Sources of samples: what one is (`base`), and the table that opens one by its URI.

A third party adds a source without touching this package: an entry point in the group `sattn_edge.sources`, its
name the scheme, its value a function like `open_source` in `replay`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sattn_edge.contract import Contract
from sattn_edge.errors import UnavailableError, UsageError, did_you_mean
from sattn_runtime.sources.base import Source, SourceOptions

GROUP = "sattn_edge.sources"
SOURCES = {
    "lsl": "sattn_runtime.sources.lsl:open_source",
    "mcap": "sattn_runtime.sources.mcap_file:open_source",
    "mqtt": "sattn_runtime.sources.mqtt:open_source",
    "replay": "sattn_runtime.sources.replay:open_source",
    "serial": "sattn_runtime.sources.serial_port:open_source",
    "stdin": "sattn_runtime.sources.stdin_csv:open_source",
}


def open_source(uri: str, contract: Contract, options: SourceOptions) -> Source:
    """Opens `SCHEME:REST`; `-` is `stdin:`.

    Raises:
        UsageError: no scheme, or one that nobody has.
        UnavailableError: the package that has it can't be loaded.
    """
    scheme, colon, rest = ("stdin", ":", "") if uri == "-" else uri.partition(":")
    others = {e.name: e for e in entry_points(group=GROUP)}
    if not colon:
        raise UsageError(
            f"source '{uri}'",
            "has no scheme",
            f"SCHEME:REST, or - for stdin; {_known(others)}",
            f"try replay:{uri}",
        )
    if scheme in SOURCES:
        module, function = SOURCES[scheme].split(":")
        opener: Any = getattr(importlib.import_module(module), function)
    elif scheme in others:
        opener = _load(others[scheme], uri)
    else:
        raise UsageError(f"source '{uri}'", f"unknown scheme '{scheme}'", did_you_mean(scheme, [*SOURCES, *others]))
    source: Source = opener(rest, contract, options)
    return source


def _load(entry: EntryPoint, uri: str) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UnavailableError(
            f"source '{uri}'", f"'{entry.value}' can't be loaded ({error})", todo="install its package again"
        ) from error


def _known(others: dict[str, Any]) -> str:
    return f"schemes: {', '.join(sorted([*SOURCES, *others]))}"
