"""The reference network in PyTorch. The only core module that imports torch.

Letters: b batch, c feature maps, t time steps (axis `series`), m sensor channels (axis `modal`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sattn_edge.contract import Pooling
from sattn_edge.errors import UsageError

WIDTHS = (64, 128, 256, 512)


class SpatialAttentionModule(nn.Module):
    """Spatial attention over time: pool over feature maps, small convolution, sigmoid, multiply.

    `x [b, c, t, m] -> x * sigmoid(conv(pool(x))) [b, c, t, m]` with `pool(x) [b, 1, t, m]`, or `[b, 2, t, m]`
    for `mean+max`. With the default kernel the modal axis stays apart and only time is mixed.

    Args:
        kernel_size: time steps the convolution spans, or `(time, modal)`; odd, so that the map keeps its shape.
        pooling: `mean`, `max`, or `mean+max` (both, concatenated in this order).

    Raises:
        UsageError: an even kernel or an unknown pooling.

    Source: the spatial half of CBAM (Woo et al. 2018, arXiv:1807.06521), with mean pooling and one axis.
    """

    def __init__(self, kernel_size: int | tuple[int, int] = 3, pooling: Pooling = "mean") -> None:
        super().__init__()
        kt, km = (kernel_size, 1) if isinstance(kernel_size, int) else kernel_size
        if kt % 2 == 0 or km % 2 == 0 or kt < 1 or km < 1:
            raise UsageError("attention kernel", f"got {(kt, km)}", "odd numbers, so that the map keeps its shape")
        if pooling not in ("mean", "max", "mean+max"):
            raise UsageError("pooling", f"got '{pooling}'", "mean, max or mean+max")
        self.pooling: Pooling = pooling
        maps = 2 if pooling == "mean+max" else 1
        self.att_fc = nn.Sequential(
            nn.Conv2d(maps, 1, (kt, km), stride=1, padding=(kt // 2, km // 2)),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[b, c, t, m] -> [b, c, t, m]`."""
        if self.pooling == "mean":
            pooled = x.mean(dim=1, keepdim=True)
        elif self.pooling == "max":
            pooled = x.amax(dim=1, keepdim=True)
        else:
            pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        gated: torch.Tensor = x * self.att_fc(pooled)
        return gated


class SpatialAttentionNeuralNetwork(nn.Module):
    """Convolutions along time, each followed by a spatial-attention gate, BatchNorm and ReLU.

    `x [b, 1, t, m]` (normalised per channel) `-> logits [b, category]`.

    Args:
        train_shape: shape of the training data, `(..., series, modal)`; only the last entry is used.
        category: the number of classes.
        widths: feature maps of each block.
        kernel: time steps of each main convolution; padding is `kernel // 2`.
        stride: time stride of each main convolution.
        pooling: of the gates, see `SpatialAttentionModule`.
        attention_kernel: of the gates, see `SpatialAttentionModule`.
    """

    def __init__(
        self,
        train_shape: Sequence[int],
        category: int,
        widths: Sequence[int] = WIDTHS,
        *,
        kernel: int = 3,
        stride: int = 2,
        pooling: Pooling = "mean",
        attention_kernel: int | tuple[int, int] = 3,
    ) -> None:
        super().__init__()
        modal = int(train_shape[-1])
        rows: list[nn.Module] = []
        for maps_in, maps_out in zip([1, *widths], widths, strict=False):
            rows += [
                nn.Conv2d(maps_in, maps_out, (kernel, 1), (stride, 1), (kernel // 2, 0)),
                SpatialAttentionModule(attention_kernel, pooling),
                nn.BatchNorm2d(maps_out),
                nn.ReLU(),
            ]
        self.layer = nn.Sequential(*rows)
        self.ada_pool = nn.AdaptiveAvgPool2d((1, modal))
        self.fc = nn.Linear(widths[-1] * modal, category)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[b, 1, t, m] -> [b, category]`."""
        x = self.ada_pool(self.layer(x))
        logits: torch.Tensor = self.fc(x.flatten(1))
        return logits
