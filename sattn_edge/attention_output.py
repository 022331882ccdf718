"""Attention as an output of the network: how the gates lie in it, and when in the window each of them is.

A file exported with `--attention-output` gives, beside `logits`, one float32 output `attention` [batch, values]: the
gates of all blocks as they are, one block behind another, each in the order (time step, modal):

    attention[b] = | gate 0, [steps_0, modal_0] | gate 1, [steps_1, modal_1] | ...        every value in 0 .. 1

Nothing is averaged, aligned or scaled in the graph: the blocks differ in length (series / 2, / 4, ...), and how to make
one picture of them is a question of taste, which can still be answered another way behind the network. One flat output
costs a runtime one more address and one more copy, however many blocks there are.

The layout stands in the file's metadata as `sattn_edge.attention`. Step i of a block is centred on sample
`first_sample + i * samples_per_step` of the window: the middle of what its feature map sees there. `first_sample` may
lie outside the window where a block pads by more than half its kernel.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

OUTPUT = "attention"
MOST_BLOCKS = 1024


class AttentionBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gate of one block: its name, its size [steps, modal], and the samples its steps are centred on."""

    name: str
    steps: int
    modal: int
    first_sample: float
    samples_per_step: float

    @property
    def values(self) -> int:
        """How many numbers of the output are this gate's."""
        return self.steps * self.modal

    @property
    def centres(self) -> NDArray[np.float64]:
        """The sample each step is centred on, float64 [steps]."""
        return self.first_sample + self.samples_per_step * np.arange(self.steps, dtype=np.float64)


class AttentionLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gates in the order in which they lie in the output."""

    blocks: tuple[AttentionBlock, ...]

    @property
    def values(self) -> int:
        """The length of the output for one window."""
        return sum(block.values for block in self.blocks)

    def split(self, attention: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The output float32 [b, values] as one view [b, steps, modal] for each block."""
        ends = np.cumsum([block.values for block in self.blocks])[:-1]
        parts = np.split(attention, ends, axis=1)
        return [part.reshape(-1, b.steps, b.modal) for part, b in zip(parts, self.blocks, strict=True)]


def attention_text(layout: AttentionLayout) -> str:
    """The output as reports tell it."""
    sizes = ", ".join(f"{block.steps} x {block.modal}" for block in layout.blocks)
    return f"[batch, {layout.values}], the gates: {sizes}"


def read_layout(raw: object) -> AttentionLayout:
    """The layout from what JSON gave.

    Raises:
        ValueError: it is none; the text says why.
    """
    layout = msgspec.convert(raw, AttentionLayout)  # its error is a ValueError
    if not 1 <= len(layout.blocks) <= MOST_BLOCKS:
        raise ValueError(f"{len(layout.blocks)} blocks")
    for block in layout.blocks:
        if block.steps < 1 or block.modal < 1:
            raise ValueError(f"a gate of {block.steps} x {block.modal}")
        if not (math.isfinite(block.first_sample) and math.isfinite(block.samples_per_step)):
            raise ValueError("a gate at no time")
        if not block.samples_per_step > 0:
            raise ValueError(f"steps {block.samples_per_step:g} samples apart")
    return layout
