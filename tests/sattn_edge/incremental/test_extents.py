"""Which columns deviate, against counts made by hand and against values that were perturbed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sattn_edge.incremental.chain import Stencil, read_chain
from sattn_edge.incremental.extents import Extent, behind, extents
from tests.helpers_lowering import Layer, Network, build


def test_reference_network_deviates_by_three_columns_at_the_start_and_two_at_the_end():
    network = Network(tuple(Layer(2) for _ in range(4)), series=128, modal=1)
    _, layers = extents(read_chain(build(network)))
    # By hand: 2A - 1 >= B, B' = A + 1 at the start; 2j + 1 <= D, D' = R + 1 at the end.
    found = [(e.conv.left, e.out.left, e.conv.right, e.out.right) for e in layers]
    assert found == [(1, 2, 0, 1), (2, 3, 1, 2), (2, 3, 1, 2), (2, 3, 1, 2)]
    assert [e.out.length for e in layers] == [64, 32, 16, 8]
    assert [e.out.step for e in layers] == [2, 4, 8, 16]


def test_right_edge_follows_from_the_length():
    stencil = Stencil(kernel=3, stride=2, dilation=1, before=1, after=1)
    # Of 8 columns the last one read is the seventh, the padding behind is never reached; of 7 it is.
    assert behind(Extent(8, 0, 0, 1), stencil).right == 0
    assert behind(Extent(7, 0, 0, 1), stencil).right == 1


def test_without_padding_nothing_deviates():
    made = behind(Extent(20, 0, 0, 1), Stencil(kernel=5, stride=1, dilation=2, before=0, after=0))
    assert (made.length, made.left, made.right) == (12, 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    before=st.tuples(st.integers(24, 40), st.integers(0, 4), st.integers(0, 4)),
)
def test_deviating_columns_are_those_that_a_changed_end_reaches(kernel, stride, dilation, pads, before):
    length, left, right = before
    stencil = Stencil(kernel, stride, dilation, *pads)
    made = behind(Extent(length, left, right, 1), stencil)
    # What is not steady, padding included, is marked; a column that reads a mark deviates.
    marked = np.ones(pads[0] + length + pads[1])
    marked[pads[0] + left : pads[0] + length - right] = 0
    reads = [marked[[stencil.before + tap for tap in stencil.taps(i)]].any() for i in range(made.length)]
    at_the_start = [stencil.taps(i)[0] < left for i in range(made.length)]
    at_the_end = [stencil.taps(i)[-1] >= length - right for i in range(made.length)]
    assert reads == [a or b for a, b in zip(at_the_start, at_the_end, strict=True)]
    assert made.left == sum(at_the_start)
    assert made.right == sum(at_the_end)
