"""Plain text for people: aligned tables and numbers with units, the same on a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(rows: Sequence[Sequence[object]], *, header: Sequence[str] = (), indent: int = 2) -> list[str]:
    """Rows as aligned lines. Columns whose cells are all numbers (or `-`) stand to the right."""
    cells = [[str(cell) for cell in row] for row in ([header, *rows] if header else rows)]
    if not cells:
        return []
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    body = cells[1:] if header else cells
    right = [all(_numeric(row[i]) for row in body) for i in range(len(widths))]
    lines = []
    for row in cells:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append((" " * indent + "  ".join(parts)).rstrip())
    return lines


def _numeric(cell: str) -> bool:
    return cell in ("", "-") or cell.replace(".", "").replace(",", "").replace("%", "").lstrip("<-+").isdigit()


def fields(rows: Iterable[tuple[str, object]]) -> list[str]:
    """`name   value` lines with the values aligned; a value of None leaves its line out."""
    kept = [(name, str(value)) for name, value in rows if value is not None]
    width = max((len(name) for name, _ in kept), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in kept]


def count(n: int, noun: str) -> str:
    """`1 window`, `12,345 windows`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def figure(value: float | None, form: str) -> str:
    """A number in a format, `NaN` where there is none."""
    return "NaN" if value is None else f"{value:{form}}"


def millions(n: int) -> str:
    """`603,143` below a million, `15.2 M` above."""
    return f"{n:,}" if n < 1_000_000 else f"{n / 1e6:.2f} M"


def microseconds(value_us: float) -> str:
    """A duration with the unit that suits it: `640 us`, `12.3 ms`, `4.00 s`."""
    if value_us < 1000:
        return f"{value_us:.0f} us"
    if value_us < 1_000_000:
        return f"{value_us / 1000:.2f} ms"
    return f"{value_us / 1e6:.2f} s"


def printable(text: str) -> str:
    """What a file says is whoever's made it: it steers no terminal, and is text that any encoding takes."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
