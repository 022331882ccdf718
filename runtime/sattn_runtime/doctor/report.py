"""A diagnosis for a person and for a program."""

from __future__ import annotations

import textwrap
from typing import Any

from sattn_edge.text import count
from sattn_runtime.doctor.diagnosis import Diagnosis
from sattn_runtime.doctor.facts import dotted
from sattn_runtime.doctor.findings import BACKENDS, Finding, Level

_WIDTH = 80
# Told apart without colour.
_MARK: dict[Level, str] = {"ok": "ok", "advice": "advice", "problem": "PROBLEM"}


def as_data(diagnosis: Diagnosis) -> dict[str, Any]:
    """Plain dicts, lists and strings."""
    return {
        "root": diagnosis.root,
        "backend": diagnosis.asked,
        "board": _board(diagnosis),
        "findings": [
            {
                "topic": found.topic,
                "level": found.level,
                "found": found.found,
                "why": found.why or None,
                "mend": found.mend or None,
                "stops": list(found.stops),
            }
            for found in diagnosis.findings
        ],
        "can_run": {backend: diagnosis.can_run(backend) for backend in BACKENDS},
        "not_examined": list(diagnosis.not_examined),
    }


def _board(diagnosis: Diagnosis) -> dict[str, Any]:
    board, python = diagnosis.board, diagnosis.probe.python
    return {
        "kind": board.kind,
        "model": board.model,
        "soc": board.soc,
        "compute_capability": board.chip.compute_capability if board.chip else None,
        "l4t": dotted(board.l4t) if board.l4t else None,
        "jetpack": board.jetpack_name,
        "driver": board.driver,
        "cuda": board.cuda,
        "tensorrt": board.tensorrt,
        "python": dotted(python.version) if python else None,
    }


def as_text(diagnosis: Diagnosis) -> list[str]:
    """The report a person reads: a verdict, then one block a finding, its cure on a line that can be copied."""
    topics = max(len(found.topic) for found in diagnosis.findings)
    lines = [_verdict(diagnosis), ""]
    for found in diagnosis.findings:
        lines += _block(found, topics)
    lines.append("")
    for backend in BACKENDS:
        lines += _hanging(f"{backend.ljust(12)}  ", _said(diagnosis, backend))
    if diagnosis.not_examined:
        lines += ["", *_wrapped(f"A copied tree does not tell: {', '.join(diagnosis.not_examined)}.", 0)]
    return lines


def _verdict(diagnosis: Diagnosis) -> str:
    levels = [found.level for found in diagnosis.findings]
    problems, advice = levels.count("problem"), levels.count("advice")
    told = (count(problems, "problem") if problems else "no problem") + (f", {advice} to improve" if advice else "")
    where = "this machine" if diagnosis.root == "/" else diagnosis.root
    return f"{where}: {told if problems or advice else 'nothing to mend'}"


def _block(found: Finding, topics: int) -> list[str]:
    head = f"{_MARK[found.level].ljust(7)}  {found.topic.ljust(topics)}  "
    lines = _hanging(head, found.found)
    if found.why:
        lines += _wrapped(found.why, len(head) + 2)
    if found.mend:
        # Never wrapped: a copied command must stay one.
        lines += [f"{' ' * 9}$ {_printable(found.mend)}"]
    return lines


def _hanging(head: str, text: str) -> list[str]:
    """Text wrapped beside a head on its first line."""
    first, *others = _wrapped(text, len(head))
    return [head + first.lstrip(), *others]


def _wrapped(text: str, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        _printable(text),
        _WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _printable(text: str) -> str:
    """A copied tree is someone else's: nothing of it steers this terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _said(diagnosis: Diagnosis, backend: str) -> str:
    stoppers = [found.topic for found in diagnosis.findings if backend in found.stops]
    return "can run here" if not stoppers else f"can't run here: {', '.join(stoppers)}"
