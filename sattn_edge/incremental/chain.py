"""A source graph as a chain of layers along time, or the node that keeps it from being one.

    window [b, 1, t, m] -> pointwise -> (Conv along time -> gate -> pointwise) ... -> mean over time -> product -> ...

All of it but the mean is local in time: a column of a map (all feature maps and channels of one time step) depends on
some columns of the map before it and on nothing else. The mean and the product are linear in the columns, which is
what lets the columns of one window be summed hop by hop. What follows the product sees one vector a window and may be
anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto

from sattn_edge.attention import DOMAIN
from sattn_edge.graph import Graph, attribute
from sattn_edge.passes.block import Array, Block, find_blocks, scale_and_shift, window_of
from sattn_edge.passes.fold_batch_norm import divides
from sattn_edge.passes.gemm_gate import why_no_gate
from sattn_edge.passes.gemm_product import Linear, why_no_product
from sattn_edge.passes.gemm_tail import BINARY, UNARY, mean_over

# The riding mean must not become NaN: even without weights it would spoil the product that reads it.
STAYS_FINITE = frozenset({*UNARY, *BINARY} - {"Exp", "Log", "Sqrt", "Reciprocal", "Mish", "Softplus"})


class NotIncremental(Exception):  # noqa: N818 - an answer, not a failure
    """The network is not local in time: `node` (a name and its operator) and `reason` say where."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node, self.reason = node, reason


@dataclass(frozen=True)
class Stencil:
    """How a layer's column is made of the columns before it: taps `i * stride - before + d * dilation`, d < kernel."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """Columns from the first tap to the last."""
        return self.dilation * (self.kernel - 1)

    def taps(self, column: int) -> list[int]:
        """The columns that a column reads, in the order of the kernel."""
        first = column * self.stride - self.before
        return [first + d * self.dilation for d in range(self.kernel)]


@dataclass(frozen=True, eq=False)
class Pointwise:
    """A node that works value by value. operand: float64 [m, c] or [] where it has a constant, at input `place`."""

    node: NodeProto
    operand: Array | None = None
    place: int = 1


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution along time, the gate behind it if any, and what follows value by value.

    linear: the convolution, with the scale of a BatchNormalization where that went in, and the mean over its feature
    maps where a gate reads it. scale: float64 [c], that scale, which the gate must not see.
    """

    conv: NodeProto
    linear: Linear
    scale: Array
    stencil: Stencil
    block: Block | None
    pointwise: tuple[Pointwise, ...]

    @property
    def name(self) -> str:
        """The convolution's."""
        return str(self.conv.name or self.conv.output[0])

    @property
    def maps(self) -> int:
        """Feature maps it makes."""
        return len(self.linear.weight)

    @property
    def mapped(self) -> int:
        """Columns of its product: the feature maps, and their mean where a gate reads that."""
        return self.maps + self.mean_is_column

    @property
    def mean_is_column(self) -> bool:
        """Whether the gate's mean has to come with the product: it can't be taken of what some scale made too small."""
        return self.linear.mean_weight is not None and not divides(self.scale)

    @property
    def handed_on(self) -> int:
        """Columns that the next layer reads: the mean rides along where nothing keeps it from doing so."""
        rides = self.block is not None and self.block.pooling == "mean" and self.stays_finite
        return self.mapped if rides else self.maps

    @property
    def stays_finite(self) -> bool:
        """Whether what follows value by value gives numbers for numbers."""
        return all(one.node.op_type in STAYS_FINITE for one in self.pointwise)

    @property
    def gate(self) -> Stencil | None:
        """The gate's convolution along time."""
        if self.block is None:
            return None
        top, _, bottom, _ = self.block.pads
        return Stencil(self.block.weight.shape[2], 1, 1, top, bottom)


@dataclass(frozen=True, eq=False)
class Chain:
    """The network. head: float64 [classes, c, m] that the columns' mean is multiplied with; bias [classes].

    rest: nodes behind the product, which read `head_output`; the graph's logits are `output`.
    """

    input: str
    output: str
    series: int
    modal: int
    dtype: np.dtype[np.floating]
    pointwise: tuple[Pointwise, ...]
    layers: tuple[Layer, ...]
    head: Array
    bias: Array
    head_output: str
    rest: tuple[NodeProto, ...]
    graph: Graph = field(repr=False)


def read_chain(model: ModelProto) -> Chain:
    """Reads a source graph, as sattn-export writes it. Raises NotIncremental."""
    return _Reader(Graph(model, shapes=True)).read()


class _Reader:
    """Follows the one value that leads from the window to the logits."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._blocks = {id(block.call): block for block in find_blocks(graph)}
        self._value = graph.proto.input[0].name
        self._wanted = self._needed()

    def read(self) -> Chain:
        graph, first = self._graph, self._value
        shape = graph.shapes[first]
        if len(shape) != 4 or shape[1] != 1 or shape[2] is None or shape[3] is None:
            raise NotIncremental(f"input '{first}'", f"its shape is {list(shape)}, not [batch, 1, series, modal]")
        before = self._pointwise()
        layers: list[Layer] = []
        while (node := self._next()).op_type == "Conv":
            layers.append(self._layer(node))
        if not layers:
            raise NotIncremental(_label(node), "there is no convolution along time in front of it")
        over = self._pool(node)
        head, bias = self._product(over)
        value, output = self._value, graph.proto.output[0].name
        dtype = next((b.dtype for b in self._blocks.values()), np.dtype(np.float32))
        return Chain(
            first, output, shape[2], shape[3], dtype, before, tuple(layers), head, bias, value, self._rest(), graph
        )

    def _needed(self) -> set[int]:
        """The nodes that the logits need: gates given away as an output of their own are none of these."""
        found: set[int] = set()
        values = [self._graph.proto.output[0].name]
        while values:
            node = self._graph.producers.get(values.pop())
            if node is not None and id(node) not in found:
                found.add(id(node))
                values.extend(node.input)
        return found

    def _next(self) -> NodeProto:
        readers = [node for node in self._graph.consumers[self._value] if id(node) in self._wanted]
        if len(readers) != 1:
            names = ", ".join(_label(node) for node in readers) or "nothing"
            raise NotIncremental(f"'{self._value}'", f"it is read by {names}; only a chain of layers is followed")
        return readers[0]

    def _pointwise(self) -> tuple[Pointwise, ...]:
        found: list[Pointwise] = []
        while True:
            node = self._next()
            if node.op_type in ("Identity", "Dropout"):
                self._value = node.output[0]
                continue
            made = self._norm(node) if node.op_type == "BatchNormalization" else self._value_by_value(node)
            if made is None:
                return tuple(found)
            found += made
            self._value = node.output[0]

    def _value_by_value(self, node: NodeProto) -> list[Pointwise] | None:
        if node.op_type in UNARY:
            if any(self._graph.constant(name) is None for name in node.input[1:] if name):
                raise NotIncremental(_label(node), "its options are computed")
            return [Pointwise(node)]
        if node.op_type not in BINARY:
            return None
        place = 1 - list(node.input).index(self._value)
        number = self._graph.constant(node.input[place])
        if number is None:
            raise NotIncremental(_label(node), "its other operand is computed")
        return [Pointwise(node, self._operand(node, number), place)]

    def _operand(self, node: NodeProto, number: Array) -> Array:
        if number.size == 1 and number.ndim <= 4:
            return np.asarray(number, np.float64).reshape(())
        maps, _, modal = (size or 0 for size in self._graph.shapes[self._value][1:])
        shape = (1,) * (4 - number.ndim) + number.shape
        if number.ndim > 4 or shape[0] != 1 or shape[2] != 1 or shape[1] not in (1, maps) or shape[3] not in (1, modal):
            raise NotIncremental(_label(node), f"its constant of shape {list(number.shape)} differs along time")
        wide = np.broadcast_to(number.reshape(shape), (1, maps, 1, modal))
        return np.ascontiguousarray(wide[0, :, 0].T, np.float64)

    def _norm(self, node: NodeProto) -> list[Pointwise]:
        """BatchNormalization that no product took in: a multiplication and an addition."""
        scale, shift = self._scale_and_shift(node)
        modal = self._graph.shapes[self._value][3] or 1
        wide = [np.tile(row, (modal, 1)) for row in (scale, shift)]
        return [Pointwise(_elementwise("Mul", node), wide[0]), Pointwise(_elementwise("Add", node), wide[1])]

    def _scale_and_shift(self, node: NodeProto) -> tuple[Array, Array]:
        if any(self._graph.constant(name) is None for name in node.input[1:]) or attribute(node, "training_mode", 0):
            raise NotIncremental(_label(node), "its statistics are computed over the window")
        return scale_and_shift(self._graph, node)

    def _layer(self, conv: NodeProto) -> Layer:
        if reason := why_no_product(self._graph, conv):
            raise NotIncremental(_label(conv), reason)
        window, linear = window_of(self._graph, conv), Linear.of(self._graph, conv)
        stencil = Stencil(window.kernel[0], window.strides[0], window.dilations[0], window.pads[0], window.pads[2])
        self._value = conv.output[0]
        block = self._block()
        if block is not None and block.pooling != "max":
            linear = linear.with_mean()
        # A maximum must see the map unscaled, and so must a BatchNormalization that is not directly behind.
        norm = self._next()
        after: list[Pointwise] = []
        gated_scale = np.ones(len(linear.weight))
        if norm.op_type == "BatchNormalization" and (block is None or block.pooling == "mean"):
            scale, shift = self._scale_and_shift(norm)
            if block is None:
                linear = linear.scaled(scale, shift)
            else:
                linear, gated_scale = linear.scaled(scale), scale
                modal = self._graph.shapes[self._value][3] or 1
                after.append(Pointwise(_elementwise("Add", norm), np.tile(shift, (modal, 1))))
            self._value = norm.output[0]
        return Layer(conv, linear, gated_scale, stencil, block, (*after, *self._pointwise()))

    def _block(self) -> Block | None:
        node = self._next()
        if node.domain != DOMAIN:
            return None
        block = self._blocks.get(id(node))
        if block is None:
            raise NotIncremental(_label(node), "its weights or the size of its map are not fixed")
        if reason := why_no_gate(block):
            raise NotIncremental(_label(node), reason)
        self._value = node.output[0]
        return block

    def _pool(self, node: NodeProto) -> tuple[int, ...]:
        time = self._graph.shapes[self._value][2]
        over = mean_over(node, time or 0)
        if not over:
            why = f"{node.op_type} is neither followed along time nor the mean over all of it"
            raise NotIncremental(_label(node), why)
        self._value = node.output[0]
        return over

    def _product(self, over: tuple[int, ...]) -> tuple[Array, Array]:
        """The weights [classes, c, m] and the bias of the product that reads what was pooled."""
        pooled = self._graph.shapes[self._value]
        maps, modal = pooled[1] or 0, pooled[3] or 0
        node = self._next()
        while node.op_type in ("Flatten", "Reshape", "Dropout", "Identity", "Squeeze"):
            self._value = node.output[0]
            node = self._next()
        flat = self._graph.shapes.get(self._value, ())
        weight = self._graph.constant(node.input[1]) if node.op_type in ("Gemm", "MatMul") else None
        if weight is None or weight.ndim != 2 or len(flat) != 2 or flat[1] != maps * modal:
            raise NotIncremental(_label(node), "no product with constant weights reads the mean over time")
        plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
        if attribute(node, "transA", 0) or not plain or node.input[0] != self._value:
            raise NotIncremental(_label(node), "it scales or transposes the mean over time")
        columns = np.asarray(weight if attribute(node, "transB", 0) else weight.T, np.float64)
        bias = self._graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if bias is None:
            raise NotIncremental(_label(node), "its bias is computed")
        if bias.size not in (1, len(columns)):
            raise NotIncremental(_label(node), f"its bias of shape {list(bias.shape)} is not one number for each class")
        self._value = node.output[0]
        head = columns.reshape(len(columns), maps, modal)
        if 3 in over:
            width = self._width_before_pool()
            head = np.repeat(head / width, width, axis=2)
        return head, np.broadcast_to(np.asarray(bias, np.float64).reshape(-1), (len(columns),)).copy()

    def _width_before_pool(self) -> int:
        return int(self._graph.shapes[self._graph.proto.input[0].name][3] or 1)

    def _rest(self) -> tuple[NodeProto, ...]:
        """The nodes between the product and the logits, in order, with what computes their constants."""
        found, values = set[int](), [self._graph.proto.output[0].name]
        while values:
            name = values.pop()
            node = self._graph.producers.get(name)
            if name != self._value and node is not None and self._graph.constant(name) is None:
                found.add(id(node))
                values.extend(node.input)
        return tuple(node for node in self._graph.proto.node if id(node) in found)


def _elementwise(op_type: str, norm: NodeProto) -> NodeProto:
    name = f"{norm.name or norm.output[0]}.{op_type.lower()}"
    return NodeProto(op_type=op_type, name=name, input=["", ""], output=[norm.output[0]])


def _label(node: NodeProto) -> str:
    return f"{node.name or node.output[0]} ({node.op_type})"
