"""A plan as an ordinary ONNX graph: samples and states in, logits and the next states out.

    state [b, kept, m*c] -+                                          rows [b, columns*m, c] are the same buffer as
    new   [b, cols, m*c] -+-> Concat -> Gather (taps) -> Gemm -> y    columns [b, columns, m*c]
                                  `---> Gather (kept) -> next state

    y -+-> Concat -> mean column -> MatMul (gate's taps as a band) -> Sigmoid -+
       |        `---------------> Gather (columns to gate) --------------------+-> Mul -> Add -> Relu -> new ...
       `--> Gather (kept) -> next state

Zero padding is a column of zeros that is kept like any other, so padding, the window's start and its end are nothing
but places. The mean over feature maps is one more column of the product, as in form `gemm`; it rides along as a map
that the next product has no weights for, which saves the copy that splitting it off would be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from sattn_edge.graph import Graph, set_attribute
from sattn_edge.incremental.chain import Layer, Pointwise
from sattn_edge.incremental.columns import ZERO, Held
from sattn_edge.incremental.plans import Plan, Stage
from sattn_edge.passes.gemm_rows import Writer

SAMPLES = "samples"
# A map that nothing reads still must not become NaN: 0 times NaN is NaN.
_STAYS_FINITE = frozenset(
    "Abs Neg Erf Tanh Sigmoid Clip Relu LeakyRelu Elu Selu Celu Gelu HardSigmoid HardSwish Softsign ThresholdedRelu "
    "Add Sub Mul Div".split()
)


@dataclass(frozen=True, eq=False)
class Step:
    """The graph of one step. Inputs: `samples` [b, 1, samples, modal], then the states; outputs: logits, then the
    next states in the same order. states: the shape of each without its batch."""

    model: ModelProto
    plan: Plan
    states: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Columns:
    """A value [b, columns, m*c]; c counts the riding mean too, `maps` does not."""

    name: str
    columns: int
    width: int
    maps: int


def write_step(model: ModelProto, plan: Plan) -> Step:
    """Writes a plan of this source graph as a graph of its own, without metadata."""
    made = ModelProto()
    made.CopyFrom(model)
    made.ClearField("metadata_props")
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(plan.chain.rest)  # so that their names stay theirs
    return _StepWriter(made, plan).write()


class _StepWriter:
    """The nodes of a step in order, and its states."""

    def __init__(self, model: ModelProto, plan: Plan) -> None:
        self._model, self._plan, self._chain = model, plan, plan.chain
        self._writer = Writer(Graph(model), plan.chain.dtype)
        self._modal = plan.chain.modal
        self._states: list[tuple[str, str, tuple[int, ...]]] = []

    def write(self) -> Step:
        chain, plan = self._chain, self._plan
        value = _Columns(self._writer.reshape(SAMPLES, (plan.samples, self._modal), "samples.columns"), plan.samples, 1, 1)
        value = self._pointwise(value, chain.pointwise)
        for layer, stage in zip(chain.layers, plan.stages, strict=True):
            value = self._layer(layer, stage, value)
        self._sum(value)
        for node in chain.rest:
            self._writer.keep(node)
        self._finish()
        return Step(self._model, plan, tuple(shape for _, _, shape in self._states))

    def _finish(self) -> None:
        graph = self._model.graph
        element = graph.output[0].type.tensor_type.elem_type
        logits = next(output for output in graph.output if output.name == self._chain.output)
        shape = ["batch", 1, self._plan.samples, self._modal]
        inputs = [helper.make_tensor_value_info(SAMPLES, element, shape)]
        outputs = [helper.make_tensor_value_info(logits.name, element, ["batch", len(self._chain.head)])]
        if self._chain.rest:
            outputs[0].CopyFrom(logits)
        for before, after, size in self._states:
            inputs.append(helper.make_tensor_value_info(before, element, ["batch", *size]))
            outputs.append(helper.make_tensor_value_info(after, element, ["batch", *size]))
        del graph.input[:], graph.output[:]
        graph.input.extend(inputs)
        graph.output.extend(outputs)
        self._writer.commit(self._model)
        del self._model.functions[:]
        used = {node.domain for node in graph.node} | {""}
        kept = [opset for opset in self._model.opset_import if opset.domain in used]
        del self._model.opset_import[:]
        self._model.opset_import.extend(kept)

    def _layer(self, layer: Layer, stage: Stage, value: _Columns) -> _Columns:
        source = self._hold(f"{layer.name}.source", stage.source, value)
        made = self._product(layer, stage, source)
        if layer.block is not None:
            made = self._gate(layer, stage, self._hold(f"{layer.name}.mapped", stage.mapped, made))
        if made.width > made.maps and not all(p.node.op_type in _STAYS_FINITE for p in layer.pointwise):
            made = self._main(made, layer.name)
        return self._pointwise(made, layer.pointwise)

    def _hold(self, name: str, held: Held, value: _Columns) -> _Columns:
        """What was kept in front of what is new, and what to keep of both."""
        columns = len(held.state) + value.columns
        row = self._modal * value.width
        if held.kept:
            state = self._state(name, (len(held.state), row))
            joined = self._writer.add("Concat", [state[0], value.name], name, axis=1)
            kept = self._writer.integers(f"{name}.kept", held.kept)
            self._writer.add("Gather", [joined, kept], f"{name}.keep", state[1], axis=1)
        elif ZERO in held.state:
            amounts = self._writer.integers(f"{name}.pads", [0, 1, 0, 0, 0, 0])
            joined = self._writer.add("Pad", [value.name, amounts], name)
        else:
            return value
        return _Columns(joined, columns, value.width, value.maps)

    def _state(self, name: str, shape: tuple[int, ...]) -> tuple[str, str]:
        before, after = f"{name}.state", f"{name}.next"
        self._states.append((before, after, shape))
        return before, after

    def _rows(self, value: _Columns, name: str) -> str:
        return self._writer.reshape(value.name, (value.columns * self._modal, value.width), f"{name}.rows")

    def _product(self, layer: Layer, stage: Stage, source: _Columns) -> _Columns:
        writer, name, linear = self._writer, layer.name, layer.linear
        taps = np.asarray(stage.taps, np.int64)
        index = (taps[:, None, :] * self._modal + np.arange(self._modal)[:, None]).reshape(-1, taps.shape[1])
        rows = self._rows(source, f"{name}.source")
        if index.shape[1] > 1 or not np.array_equal(index[:, 0], np.arange(source.columns * self._modal)):
            rows = writer.add("Gather", [rows, writer.integers(f"{name}.index", index)], f"{name}.gather", axis=1)
        matrix = writer.reshape(rows, (index.shape[1] * source.width,), f"{name}.taps")
        weight, bias = linear.weight, linear.bias
        if linear.mean_weight is not None:
            weight = np.concatenate([weight, linear.mean_weight[None]])
            bias = np.append(bias, linear.mean_bias)
        weight = np.pad(weight, ((0, 0), (0, source.width - source.maps), (0, 0)))  # none for the riding mean
        columns = weight.transpose(2, 1, 0).reshape(-1, len(weight))
        inputs = [matrix, writer.constant(f"{name}.weight", columns), writer.constant(f"{name}.bias", bias)]
        made = writer.add("Gemm", inputs, name, f"{name}.gemm")
        value = writer.reshape(made, (len(taps), self._modal * len(weight)), f"{name}.columns")
        return _Columns(value, len(taps), len(weight), layer.maps)

    def _gate(self, layer: Layer, stage: Stage, mapped: _Columns) -> _Columns:
        writer, block = self._writer, layer.block
        if block is None:
            raise ValueError(f"'{layer.name}' has no gate")
        count, name = len(stage.chosen), block.name
        logits = ""
        for number, plane in enumerate(self._planes(layer, mapped)):
            term = self._band(layer, stage, mapped, plane, number)
            logits = writer.add("Add", [logits, term], f"{name}.planes") if logits else term
        logits = writer.add("Add", [logits, writer.constant(f"{name}.bias", block.bias)], f"{name}.logits")
        gate = writer.add("Sigmoid", [logits], f"{name}.sigmoid")
        gate = writer.reshape(gate, (count * self._modal, 1), f"{name}.gate")
        if mapped.width > mapped.maps and block.pooling != "mean":
            mapped = self._main(mapped, name)
        main = mapped.name
        if stage.chosen != tuple(range(mapped.columns)):
            chosen = writer.integers(f"{name}.chosen", stage.chosen)
            main = writer.add("Gather", [main, chosen], f"{name}.choose", axis=1)
        chosen_columns = _Columns(main, count, mapped.width, mapped.maps)
        gated = writer.add("Mul", [self._rows(chosen_columns, f"{name}.main"), gate], name)
        columns = writer.reshape(gated, (count, self._modal * mapped.width), f"{name}.gated")
        return _Columns(columns, count, mapped.width, mapped.maps)

    def _planes(self, layer: Layer, mapped: _Columns) -> list[str]:
        """What the gate reads of each column: [b, columns*m, 1] each."""
        writer, block, planes = self._writer, layer.block, []
        rows = self._rows(mapped, f"{layer.name}.mapped")
        if block is not None and block.pooling != "max":
            bounds = (mapped.maps, mapped.maps + 1, 2)
            names = [writer.integers(f"{layer.name}.mean.{i}", [n]) for i, n in enumerate(bounds)]
            planes.append(writer.add("Slice", [rows, *names], f"{layer.name}.mean"))
        if block is not None and block.pooling != "mean":
            main = self._rows(self._main(mapped, f"{layer.name}.pooled"), f"{layer.name}.pooled")
            planes.append(writer.add("ReduceMax", [main], f"{layer.name}.max", axes=[2], keepdims=1))
        return planes

    def _band(self, layer: Layer, stage: Stage, mapped: _Columns, plane: str, number: int) -> str:
        """The gate's convolution over one plane, as a product with a constant matrix that holds its taps."""
        writer, block, modal = self._writer, layer.block, self._modal
        if block is None:
            raise ValueError(f"'{layer.name}' has no gate")
        weight, name = block.weight[0, number], f"{block.name}.band_{number}"
        if weight.shape[1] == 1:
            matrix = _along_time(weight[:, 0], stage, mapped.columns)
            seen = writer.reshape(plane, (mapped.columns, modal), f"{name}.plane")
        else:
            matrix = _along_both(weight, block.pads[1], stage, mapped.columns, modal)
            seen = plane
        return writer.add("MatMul", [writer.constant(f"{name}.weight", matrix), seen], name)

    def _main(self, value: _Columns, name: str) -> _Columns:
        """Without the riding mean."""
        if value.width == value.maps:
            return value
        writer = self._writer
        bounds = [writer.integers(f"{name}.main.{i}", [n]) for i, n in enumerate((0, value.maps, 2))]
        made = writer.add("Slice", [self._rows(value, f"{name}.main"), *bounds], f"{name}.main")
        columns = writer.reshape(made, (value.columns, self._modal * value.maps), f"{name}.main.columns")
        return _Columns(columns, value.columns, value.maps, value.maps)

    def _pointwise(self, value: _Columns, nodes: tuple[Pointwise, ...]) -> _Columns:
        writer = self._writer
        for one in nodes:
            node = NodeProto()
            node.CopyFrom(one.node)
            output = writer.graph.fresh(f"{node.output[0]}.columns")
            inputs = [value.name, *node.input[1:]]
            if one.operand is not None:
                operand = writer.constant(f"{node.name}.operand", self._ridden(one, value))
                inputs = [operand, value.name] if one.place == 0 else [value.name, operand]
            del node.output[:], node.input[:]
            node.input.extend(inputs)
            node.output.append(output)
            set_attribute(node, "consumed_inputs", None)
            writer.keep(node)
            value = _Columns(output, value.columns, value.width, value.maps)
        return value

    def _ridden(self, one: Pointwise, value: _Columns) -> NDArray[np.float64]:
        """A pointwise operand for all of a column; the riding mean gets a number that keeps it finite."""
        operand = one.operand
        if operand is None or operand.ndim == 0:
            return np.zeros(()) if operand is None else operand
        neutral = 1.0 if one.node.op_type in ("Mul", "Div") else 0.0
        wide = np.pad(operand, ((0, 0), (0, value.width - value.maps)), constant_values=neutral)
        return wide.reshape(-1)

    def _sum(self, value: _Columns) -> None:
        """Columns to sums to logits, over the steps that are kept."""
        writer, sums, chain = self._writer, self._plan.sums, self._chain
        count, classes = len(sums.groups), len(chain.head)
        groups = writer.add("MatMul", [writer.constant("groups", sums.groups), value.name], "sum.groups")
        # A window's mean over its columns, whatever the plan sums.
        head = np.pad(chain.head / self._columns_of_a_window(), ((0, 0), (0, value.width - value.maps), (0, 0)))
        weight = head.transpose(2, 1, 0).reshape(-1, classes)
        made = writer.add("MatMul", [groups, writer.constant("head.weight", weight)], "sum.classes")
        if sums.history:
            before, after = self._state("sum.history", (sums.history * count, classes))
            made = writer.add("Concat", [before, made], "sum.all", axis=1)
            bounds = [writer.integers(f"sum.from_{i}", [n]) for i, n in enumerate((count, 2**31, 1))]
            writer.add("Slice", [made, *bounds], "sum.keep", after)
        chosen = writer.add("MatMul", [writer.constant("sum.weights", sums.weights[None]), made], "sum.window")
        flat = writer.reshape(chosen, (classes,), "sum.flat")
        writer.add("Add", [flat, writer.constant("head.bias", chain.bias)], "sum", chain.head_output)

    def _columns_of_a_window(self) -> int:
        from sattn_edge.incremental.extents import extents

        return extents(self._chain)[1][-1].out.length


def _along_time(weight: NDArray[np.float64], stage: Stage, columns: int) -> NDArray[np.float64]:
    """The taps [kernel] as a matrix [out, columns]."""
    matrix = np.zeros((len(stage.gate_taps), columns))
    for row, taps in enumerate(stage.gate_taps):
        for number, place in zip(weight, taps, strict=True):
            if place >= 0:
                matrix[row, place] += number
    return matrix


def _along_both(
    weight: NDArray[np.float64], left: int, stage: Stage, columns: int, modal: int
) -> NDArray[np.float64]:
    """The taps [kernel, kernel_m] as a matrix [out*m, columns*m]."""
    matrix = np.zeros((len(stage.gate_taps), modal, columns, modal))
    for row, taps in enumerate(stage.gate_taps):
        for numbers, place in zip(weight, taps, strict=True):
            if place < 0:
                continue
            for j, number in enumerate(numbers):
                for m in range(max(0, left - j), min(modal, modal + left - j)):
                    matrix[row, m, place, m + j - left] += number
    return matrix.reshape(len(stage.gate_taps) * modal, columns * modal)
