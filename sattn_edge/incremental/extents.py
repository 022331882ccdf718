"""Which columns of a map are a window's own, and which it shares with every window that holds them.

A column is *steady* where it has the value it would have if the signal went on in both directions, and *deviates*
where it sees the padding at the window's start or end, directly or through columns that do. Interval arithmetic over
kernel, stride, padding and dilation finds them:

    window   |left deviating| steady ............ |right deviating|        length n
             0              L                     F = n - R        n
"""

from __future__ import annotations

from dataclasses import dataclass

from sattn_edge.incremental.chain import Chain, Stencil


@dataclass(frozen=True)
class Extent:
    """Of the columns of one map in a whole window: all of them, those that deviate at each end, samples apart."""

    length: int
    left: int
    right: int
    step: int

    @property
    def frontier(self) -> int:
        """The first column that is not steady, counted from the window's start."""
        return self.length - self.right


@dataclass(frozen=True)
class LayerExtents:
    """Before the gate and behind it; the same where there is none."""

    conv: Extent
    out: Extent


def extents(chain: Chain) -> tuple[Extent, tuple[LayerExtents, ...]]:
    """Those of the window itself and of each layer."""
    window = Extent(chain.series, 0, 0, 1)
    found, before = [], window
    for layer in chain.layers:
        conv = behind(before, layer.stencil)
        out = conv if layer.gate is None else behind(conv, layer.gate)
        found.append(LayerExtents(conv, out))
        before = out
    return window, tuple(found)


def behind(before: Extent, stencil: Stencil) -> Extent:
    """The extent of what a stencil makes of a map."""
    whole = before.length + stencil.before + stencil.after
    length = max(0, (whole - stencil.reach - 1) // stencil.stride + 1)
    left = -(-(before.left + stencil.before) // stencil.stride)  # the first tap lies before the first steady column
    steady = (before.frontier - 1 - stencil.reach + stencil.before) // stencil.stride + 1
    steady = max(0, min(length, steady))
    return Extent(length, min(length, left), length - steady, before.step * stencil.stride)
