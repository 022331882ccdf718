"""Draft."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sattn_edge.network import SpatialAttentionNeuralNetwork

NO_LABEL = 255


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the seed."""

    window: int = 200
    widths: tuple[int, ...] = (32, 48, 64, 96)
    kernel: int = 5
    stride: int = 2
    attention_kernel: int | tuple[int, int] = 3
    crops: int = 15_360
    batch: int = 64
    rate: float = 3e-3
    decay: float = 0.05
    smoothing: float = 0.1
    warm_up: float = 0.1
    average: float = 0.95
    mixup: float = 0.0
    mirror: float = 0.0
    rotation_deg: float = 0.0
    roll_deg: float = 0.0
    tempo: float = 0.0
    amplitude: float = 0.0
    noise: float = 0.0
    half: bool = False


@dataclass(frozen=True)
class Recordings:
    """Continuous recordings, one after another in `signal [samples, channels]`, physical units."""

    signal: torch.Tensor
    label: npt.NDArray[np.uint8]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    subject: npt.NDArray[np.int32]
    split: npt.NDArray[np.str_]
    name: npt.NDArray[np.str_]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    classes: tuple[str, ...]
    rate_hz: float

    def where(self, subjects: set[int]) -> list[int]:
        """The indices of these subjects' recordings."""
        return [i for i, s in enumerate(self.subject) if int(s) in subjects]


def read(path: Path) -> Recordings:
    """Reads a bundle: int16 first differences along time, recording by recording, times a scale per channel."""
    with np.load(path, allow_pickle=False) as bundle:
        d = {key: bundle[key] for key in bundle.files}
    raw = d["signal"].copy()
    for a, n in zip(d["rec_start"], d["rec_len"], strict=True):
        np.cumsum(raw[a : a + n], axis=0, dtype=np.int16, out=raw[a : a + n])
    return Recordings(
        signal=torch.from_numpy(raw.astype(np.float32) * d["scale"]),
        label=d["label"],
        start=d["rec_start"],
        length=d["rec_len"],
        subject=d["rec_subject"],
        split=d["rec_split"],
        name=d["rec_name"],
        channels=tuple(str(c) for c in d["channels"]),
        units=tuple(str(u) for u in d["units"]),
        classes=tuple(str(c) for c in d["class_names"]),
        rate_hz=float(d["fs"]),
    )


def windows(data: Recordings, recs: list[int], window: int, hop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows that lie wholly inside one label: `x [n, 1, window, channels]`, `y [n]`."""
    x, y = [], []
    for i in recs:
        for a in range(int(data.start[i]), int(data.start[i] + data.length[i]) - window + 1, hop):
            labels = data.label[a : a + window]
            if labels[0] != NO_LABEL and (labels == labels[0]).all():
                x.append(data.signal[a : a + window])
                y.append(int(labels[0]))
    return torch.stack(x)[:, None], torch.tensor(y)


def rotations(n: int, degrees: float, roll: float, g: torch.Generator) -> torch.Tensor:
    v = torch.randn(n, 3, generator=g) * (degrees * np.pi / 180)
    v[:, 0] += torch.randn(n, generator=g) * (roll * np.pi / 180)
    k = torch.zeros(n, 3, 3)
    k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    k = k - k.transpose(1, 2)
    return torch.linalg.matrix_exp(k)


MIRROR = torch.tensor([-1.0, 1, 1, 1, -1, -1])


def crops(data: Recordings, recs: list[int], r: Recipe, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    n = r.batch
    pick = torch.tensor(recs)[torch.randint(len(recs), (n,), generator=g)].numpy()
    length = torch.from_numpy(data.length[pick]).float()
    tempo = torch.exp((torch.rand(n, generator=g) * 2 - 1) * r.tempo)
    tempo = torch.minimum(tempo, (length - 2) / r.window)
    span = tempo * (r.window - 1)
    begin = torch.rand(n, generator=g) * (length - 1 - span)
    at = begin[:, None] + tempo[:, None] * torch.arange(r.window)
    low = at.floor()
    part = (at - low)[..., None]
    row = low.long() + torch.from_numpy(data.start[pick])[:, None]
    last = torch.from_numpy((data.start + data.length)[pick] - 1)[:, None]
    x = data.signal[row] * (1 - part) + data.signal[torch.minimum(row + 1, last)] * part
    x[..., 3:] *= tempo[:, None, None]
    if r.mirror:
        flip = torch.rand(n, generator=g) < r.mirror
        x = torch.where(flip[:, None, None], x * MIRROR, x)
    if r.rotation_deg or r.roll_deg:
        m = rotations(n, r.rotation_deg, r.roll_deg, g)
        x = torch.cat([x[..., :3] @ m, x[..., 3:] @ m], -1)
    if r.amplitude:
        x[..., 3:] *= torch.exp(torch.randn(n, 1, 1, generator=g) * r.amplitude)
    if r.noise:
        x = x + torch.randn(x.shape, generator=g) * torch.tensor([0.1] * 3 + [0.3] * 3) * r.noise
    y = torch.from_numpy(data.label[data.start[pick]].astype(np.int64))
    return x[:, None], y


def train(data: Recordings, recs: list[int], r: Recipe, seed: int):
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    rows = torch.cat([data.signal[int(data.start[i]) : int(data.start[i] + data.length[i])] for i in recs])
    mean, std = rows.mean(0), rows.std(0)
    net = SpatialAttentionNeuralNetwork(
        (1, 1, r.window, 6), len(data.classes), r.widths, kernel=r.kernel, stride=r.stride,
        attention_kernel=r.attention_kernel)
    steps = r.crops // r.batch
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": r.decay}, {"params": rest, "weight_decay": 0}], lr=r.rate)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, r.rate, total_steps=steps, pct_start=r.warm_up)
    ema = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(r.average), use_buffers=True)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=r.smoothing)
    for _ in range(steps):
        x, y = crops(data, recs, r, g)
        x = (x - mean) / std
        t = nn.functional.one_hot(y, len(data.classes)).float()
        if r.mixup:
            lam = float(np.random.default_rng(int(torch.randint(2**31, (1,), generator=g))).beta(r.mixup, r.mixup))
            x = lam * x + (1 - lam) * x.flip(0)
            t = lam * t + (1 - lam) * t.flip(0)
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=r.half):
            out = net(x)
        loss = loss_fn(out.float(), t)
        loss.backward()
        opt.step()
        sched.step()
        ema.update_parameters(net)
    return ema.module.eval(), mean, std


def logits(net: nn.Module, x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([net((b - mean) / std) for b in x.split(64)])
