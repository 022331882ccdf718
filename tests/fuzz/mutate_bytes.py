"""Blind mutators: they change bytes without knowing what they mean."""

from __future__ import annotations

import random

from onnx import ModelProto


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def set_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(out)


def flip_bits_outside_weights(data: bytes, rng: random.Random) -> bytes:
    """Most of a file is weights, where a flipped bit does nothing much; here the rest is aimed at."""
    model = ModelProto.FromString(data)
    weights = [t.raw_data for t in model.graph.initializer if len(t.raw_data) > 8]
    spans = [(at, at + len(w)) for w in weights if (at := data.find(w)) >= 0]
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(out))
        while any(low <= at < high for low, high in spans):
            at = rng.randrange(len(out))
        out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 64, 512)))


def zero_run(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def random_run(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((rng.randrange(len(data)), len(data) - 1 - rng.randrange(64)))]


def insert(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.choice((1, 2, 4, 32))) + data[start:]


def duplicate_span(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] + data[end:]


def drop_span(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def splice(data: bytes, rng: random.Random) -> bytes:
    """One span put over another place."""
    start, end = _span(data, rng)
    at = rng.randrange(len(data))
    return data[:at] + data[start:end] + data[at + end - start :]


def append(data: bytes, rng: random.Random) -> bytes:
    """A second message after the first: a parser merges the two."""
    return data + rng.choice((data, data[: len(data) // 2], rng.randbytes(16), b"\x3a\x00"))


BLIND = (
    flip_bits, set_bytes, flip_bits_outside_weights, zero_run, random_run, truncate, insert, duplicate_span,
    drop_span, splice, append,
)  # fmt: skip
