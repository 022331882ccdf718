"""Complete model files for tests, made with onnx and onnxruntime alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from sattn_edge.contract import Contract
from sattn_edge.model_file import Golden, model_bytes
from sattn_edge.passes import run_passes
from sattn_edge.passes.expose_gates import ExposeGates, layout_of
from sattn_edge.windows import load_windows
from tests.helpers_data import WATCH_TINY, contract_of, make_contract
from tests.helpers_onnx import make_model

SMALL = (4, 8)
WIDE = (64, 128, 256, 512)  # the reference network: 2.4 MB of weights
GOLDEN_WINDOWS = 6


def session_of(data: bytes) -> ort.InferenceSession:
    """ONNX Runtime on bytes, as plain as can be: the oracle for what an engine gives."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def logits_of(data: bytes, x: np.ndarray) -> np.ndarray:
    """Logits [n, classes] of windows [n, 1, series, modal], in one batch."""
    return session_of(data).run(None, {"input": np.ascontiguousarray(x)})[0]


def golden_of(model: onnx.ModelProto, x: np.ndarray, source: str = "drawn") -> Golden:
    """Golden windows with the logits ONNX Runtime gives for them."""
    return Golden(x, logits_of(model.SerializeToString(), x), source == "drawn", source)


def model_file(
    contract: Contract,
    *,
    widths: tuple[int, ...] = SMALL,
    x: np.ndarray | None = None,
    seed: int = 0,
    source: str = "drawn",
    attention: bool = False,
) -> bytes:
    """The bytes of a complete model file for a contract. `x` are its golden windows; drawn ones without.

    attention: it gives its gates.
    """
    if x is None:
        shape = (GOLDEN_WINDOWS, 1, contract.window, contract.modal)
        x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    classes = len(contract.labels)
    model = make_model(widths, series=contract.window, modal=contract.modal, classes=classes, seed=seed)
    if attention:
        model, _ = run_passes(model, [ExposeGates()])
    provenance = {"checkpoint": {"description": "random weights"}, "made_by": "tests"}
    layout = layout_of(model) if attention else None
    golden = golden_of(model, x, source)
    return model_bytes(model, contract, golden, statistics=None, provenance=provenance, attention=layout)


def save_model(
    folder: Path,
    *,
    window: int = 16,
    modal: int = 2,
    hop: int = 8,
    classes: int = 3,
    rate_hz: float = 50.0,
    widths: tuple[int, ...] = SMALL,
    name: str = "small.onnx",
    attention: bool = False,
) -> Path:
    """A small model file on disk, its channels `c0`, `c1`, ..., its labels `l0`, `l1`, ..."""
    contract = make_contract(
        tuple(f"c{i}" for i in range(modal)),
        rate_hz=rate_hz,
        window=window,
        hop=hop,
        labels=tuple(f"l{i}" for i in range(classes)),
    )
    path = folder / name
    path.write_bytes(model_file(contract, widths=widths, attention=attention))
    return path


def save_watch_model(
    folder: Path, *, widths: tuple[int, ...] = SMALL, name: str = "watch.onnx", attention: bool = False
) -> Path:
    """A model file for the recordings that ship: windows of 200 x 6, its golden windows real ones."""
    contract = contract_of(WATCH_TINY, window=200, hop=100)
    x = load_windows(str(WATCH_TINY), contract, limit=GOLDEN_WINDOWS).x
    path = folder / name
    path.write_bytes(model_file(contract, widths=widths, x=x, source="watch_tiny.npz", attention=attention))
    return path
