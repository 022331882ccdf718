"""Random networks in double precision, and the proof that a rewrite is exact: onnx's reference evaluator, 1e-12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sattn_edge.attention import DOMAIN, DOMAIN_VERSION, attention_call, attention_function
from sattn_edge.passes import Pass, PassReport, run_passes

EXACT = 1e-12
POOLINGS = ("mean", "max", "mean+max")


@dataclass(frozen=True)
class Layer:
    """One block: main conv (along time, or over both axes where kernel_m > 1), gate, BatchNormalization, ReLU."""

    width: int
    kernel: int = 3
    stride: int = 2
    pad: int = 1
    pooling: str = "mean"
    attention: int = 3
    attention_pads: tuple[int, int] | None = None  # (k - 1) // 2 and k // 2 where None
    bias: bool = True
    norm: bool = True
    kernel_m: int = 1
    attention_m: int = 1


@dataclass(frozen=True)
class Network:
    """A network as drawn; `zero_scales` BatchNormalization scales of each block are 0."""

    layers: tuple[Layer, ...] = (Layer(4), Layer(6))
    series: int = 32
    modal: int = 3
    classes: int = 4
    zero_scales: int = 0
    seed: int = 0
    pool: str = "ReduceMean"
    normalised: bool = True
    extra: dict[str, str] = field(default_factory=dict)

    def lengths(self) -> list[int]:
        """Time steps before the first block and after each one."""
        out = [self.series]
        for layer in self.layers:
            out.append((out[-1] + 2 * layer.pad - layer.kernel) // layer.stride + 1)
        return out


@st.composite
def networks(
    draw: st.DrawFn,
    *,
    poolings: Sequence[str] = POOLINGS,
    zero_scales: bool = True,
    max_depth: int = 5,
    norms: bool = True,
) -> Network:
    """Depth 1-5, kernels 3-7, strides 1-3, any padding, odd and even lengths, modal 1-12, gate kernels 1-7."""
    wanted = draw(st.integers(1, max_depth))
    series, layers = draw(st.integers(8, 48)), []
    length = series
    for _ in range(wanted):
        kernel = draw(st.integers(3, 7))
        pad = draw(st.integers(0, kernel // 2))
        stride = draw(st.integers(1, 3))
        after = (length + 2 * pad - kernel) // stride + 1
        if after < 1:
            continue
        length = after
        layers.append(
            Layer(
                width=draw(st.integers(1, 6)),
                kernel=kernel,
                stride=stride,
                pad=pad,
                pooling=draw(st.sampled_from(list(poolings))),
                attention=draw(st.integers(1, 7)),
                bias=draw(st.booleans()),
                norm=draw(st.booleans()) if norms else True,
            )
        )
    if not layers:
        layers = [Layer(3, kernel=3, stride=1, pad=1, pooling=poolings[0])]
    return Network(
        layers=tuple(layers),
        series=series,
        modal=draw(st.integers(1, 12)),
        classes=draw(st.integers(2, 5)),
        zero_scales=draw(st.integers(0, 1)) if zero_scales else 0,
        seed=draw(st.integers(0, 2**16)),
    )


def build(network: Network, dtype: type[np.floating] = np.float64) -> ModelProto:
    """The network as sattn-export writes one (opset 17, IR 8, blocks as function calls), weights in `dtype`.

    Names: input `window` [batch, 1, series, modal], output `logits`; block i has `conv{i}`, `att{i}`, `bn{i}`,
    `relu{i}` (nodes) and the values `y{i}` (main conv), `g{i}` (gated), `z{i}` (BatchNormalization), `r{i}` (ReLU).
    """
    rng = np.random.default_rng(network.seed)
    arrays: dict[str, np.ndarray] = {}
    nodes: list[NodeProto] = []
    value, before = "window", 1
    if network.normalised:
        arrays["mean"] = rng.normal(size=(1, 1, 1, network.modal))
        arrays["std"] = rng.uniform(0.5, 2.0, size=(1, 1, 1, network.modal))
        nodes += [helper.make_node("Sub", ["window", "mean"], ["centred"], name="normalise.centre")]
        nodes += [helper.make_node("Div", ["centred", "std"], ["normalised"], name="normalise.scale")]
        value = "normalised"
    for i, layer in enumerate(network.layers):
        nodes += _block(i, layer, value, before, network.zero_scales, arrays, rng)
        value, before = f"r{i}", layer.width
    nodes += _head(network, value, before, arrays, rng)
    element = TensorProto.DOUBLE if dtype == np.float64 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("window", element, ["batch", 1, network.series, network.modal])],
        [helper.make_tensor_value_info("logits", element, ["batch", network.classes])],
        [numpy_helper.from_array(a if a.dtype == np.int64 else a.astype(dtype), n) for n, a in arrays.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=8,
        functions=[attention_function(p) for p in POOLINGS if any(la.pooling == p for la in network.layers)],
    )
    onnx.checker.check_model(model)
    return model


def _block(i: int, layer: Layer, value: str, before: int, zeros: int, arrays: dict, rng: np.random.Generator) -> list:
    planes = 2 if layer.pooling == "mean+max" else 1
    fan = layer.kernel * before * layer.kernel_m
    arrays[f"w{i}"] = rng.normal(size=(layer.width, before, layer.kernel, layer.kernel_m)) / np.sqrt(fan)
    arrays[f"aw{i}"] = rng.normal(size=(1, planes, layer.attention, layer.attention_m))
    arrays[f"ab{i}"] = rng.normal(size=1)
    conv = ["w" if n == 0 else "b" for n in range(1 + layer.bias)]
    if layer.bias:
        arrays[f"b{i}"] = rng.normal(size=layer.width) / 2
    before_t, after_t = layer.attention_pads or ((layer.attention - 1) // 2, layer.attention // 2)
    left, right = (layer.attention_m - 1) // 2, layer.attention_m // 2
    side = layer.kernel_m // 2
    window = {
        "kernel_shape": [layer.kernel, layer.kernel_m],
        "strides": [layer.stride, 1],
        "pads": [layer.pad, side, layer.pad, side],
    }
    call = attention_call(
        (f"y{i}", f"aw{i}", f"ab{i}"),
        f"g{i}",
        pooling=layer.pooling,
        pads=(before_t, left, after_t, right),
        name=f"att{i}",
    )
    nodes = [helper.make_node("Conv", [value, *(f"{n}{i}" for n in conv)], [f"y{i}"], name=f"conv{i}", **window), call]
    gated = f"g{i}"
    if layer.norm:
        gamma = rng.normal(size=layer.width) + np.sign(rng.normal(size=layer.width)) / 2
        gamma[: min(zeros, layer.width)] = 0
        arrays.update({f"gamma{i}": gamma, f"beta{i}": rng.normal(size=layer.width) / 2})
        arrays.update({f"mu{i}": rng.normal(size=layer.width) / 2, f"var{i}": rng.uniform(0.3, 2, size=layer.width)})
        names = [f"{n}{i}" for n in ("gamma", "beta", "mu", "var")]
        nodes.append(helper.make_node("BatchNormalization", [gated, *names], [f"z{i}"], name=f"bn{i}"))
        gated = f"z{i}"
    return [*nodes, helper.make_node("Relu", [gated], [f"r{i}"], name=f"relu{i}")]


def _head(network: Network, value: str, maps: int, arrays: dict, rng: np.random.Generator) -> list[NodeProto]:
    if network.pool == "ReduceMean":
        pool = helper.make_node("ReduceMean", [value], ["pooled"], name="pool", axes=[2], keepdims=1)
    else:
        kernel = [network.lengths()[-1], 1]
        pool = helper.make_node("AveragePool", [value], ["pooled"], name="pool", kernel_shape=kernel)
    arrays["flat"] = np.array([0, -1], np.int64)
    arrays["fc.weight"] = rng.normal(size=(network.classes, maps * network.modal)) / np.sqrt(maps * network.modal)
    arrays["fc.bias"] = rng.normal(size=network.classes)
    return [
        pool,
        helper.make_node("Reshape", ["pooled", "flat"], ["flattened"], name="flatten"),
        helper.make_node("Gemm", ["flattened", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
    ]


def windows(network: Network, count: int = 2) -> np.ndarray:
    """Random windows float64 [count, 1, series, modal]."""
    rng = np.random.default_rng(network.seed + 1)
    return rng.normal(size=(count, 1, network.series, network.modal))


def evaluate(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """The logits by onnx's reference evaluator."""
    return ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})[0]


def assert_exact(before: ModelProto, after: ModelProto, x: np.ndarray, bound: float = EXACT) -> None:
    """Same logits within `bound` of the logit scale (at least 1)."""
    wanted, got = evaluate(before, x), evaluate(after, x)
    assert got.shape == wanted.shape
    difference = np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max())
    assert difference <= bound, f"difference {difference:.2e}"


def rewrite(model: ModelProto, *passes: Pass) -> tuple[ModelProto, list[PassReport]]:
    """Runs passes on a copy, with the checker after each."""
    return run_passes(model, passes)


def operators(model: ModelProto) -> list[str]:
    """Operators of the main graph in order."""
    return [node.op_type for node in model.graph.node]
