"""A plan as an ordinary ONNX graph: samples and states in, logits and the next states out.

    state [kept*m, c] -+                                         a row for each column and channel of the sensor
    new   [cols*m, c] -+-> Concat -> Gather (taps) -> Gemm -> y
                                `--> Gather (kept) -> next state

    y -> Concat -+-> mean over maps -> Gemm (the gate's taps as a band) -> Sigmoid -+
                 |-> Gather (columns to gate) --------------------------------------+-> Mul -> Add -> Relu -> new ...
                 `-> Gather (kept) -> next state

Zero padding is a column of zeros that is kept like any other, so padding, the window's start and its end are nothing
but places.

The product's main columns are scaled by the BatchNormalization behind the gate, which must not see that. Its mean is
taken with weights 1 / (c k), as `fold_batch_norm` does, or, where some k is too small for that or integers compute the
product, comes as one more column of the product, as in form `gemm`. That column rides along as a map that the next
product has no weights for, which saves the copy that splitting it off would be.

Several streams whose steps coincide are rows beside one another, like more channels of one sensor: they share the
traffic of the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sattn_edge.graph import Graph
from sattn_edge.incremental.chain import Layer, Pointwise
from sattn_edge.incremental.columns import ZERO, Held
from sattn_edge.incremental.gate_band import band, band_rows
from sattn_edge.incremental.plans import Plan, Stage
from sattn_edge.incremental.states import State, states_of
from sattn_edge.passes.block import Block
from sattn_edge.passes.gemm_rows import Writer

SAMPLES = "samples"
# Entries of a band: above the first, one for all channels of the sensor; above the second, none.
_LARGE_BAND, _LARGEST_BAND = 1 << 14, 1 << 18


@dataclass(frozen=True, eq=False)
class Step:
    """The graph of one step.

    Inputs: `samples` [streams, 1, samples, modal], then the states. Outputs: logits [streams, classes], then the next
    states in the same order.
    """

    model: ModelProto
    plan: Plan
    streams: int

    @property
    def states(self) -> tuple[State, ...]:
        """The states, with what they begin with."""
        return states_of(self.model)


@dataclass(frozen=True)
class _Rows:
    """A value [columns*m, c]; c counts the riding mean too, `maps` does not."""

    name: str
    columns: int
    width: int
    maps: int

    def at(self, name: str) -> _Rows:
        """Another value of the same size."""
        return _Rows(name, self.columns, self.width, self.maps)


def write_step(model: ModelProto, plan: Plan, streams: int = 1, integers: Collection[str] = ()) -> Step:
    """Writes a plan of this source graph as a graph of its own, without metadata.

    integers: names of the convolutions that integers will compute; what gates read of them is then a column of theirs,
    as in the whole window.
    """
    made = ModelProto()
    made.CopyFrom(model)
    made.ClearField("metadata_props")
    del made.graph.node[:], made.graph.value_info[:], made.functions[:]
    made.graph.node.extend(plan.chain.rest)  # so that their names stay theirs
    made.graph.initializer.extend(_held_by_nodes(plan.chain.graph))
    return _StepWriter(made, plan, streams, integers).write()


def _held_by_nodes(graph: Graph) -> Iterator[TensorProto]:
    """What Constant nodes hold, as initializers."""
    for node in graph.proto.node:
        value = graph.constant(node.output[0]) if node.op_type == "Constant" else None
        if value is not None:
            yield numpy_helper.from_array(value, node.output[0])


class _StepWriter:
    """The nodes of a step in order, and its states."""

    def __init__(self, model: ModelProto, plan: Plan, streams: int, integers: Collection[str]) -> None:
        self._model, self._plan, self._chain, self._streams = model, plan, plan.chain, streams
        self._integers = integers
        self._writer = Writer(Graph(model), plan.chain.dtype)
        self._modal = streams * plan.chain.modal
        self._samples = self._writer.graph.fresh(SAMPLES)
        self._states: list[tuple[str, str, tuple[int, ...]]] = []

    def write(self) -> Step:
        value = self._window()
        for layer, stage in zip(self._chain.layers, self._plan.stages, strict=True):
            value = self._layer(layer, stage, value)
        self._sum(value)
        for node in self._chain.rest:
            self._writer.keep(node)
        self._finish()
        return Step(self._model, self._plan, self._streams)

    def _finish(self) -> None:
        """Inputs and outputs, and nothing left that the step does not use."""
        graph, chain = self._model.graph, self._chain
        element = graph.output[0].type.tensor_type.elem_type
        logits = next(output for output in graph.output if output.name == chain.output)
        size = [self._streams, *(d.dim_value for d in logits.type.tensor_type.shape.dim[1:])]
        shape = [self._streams, 1, self._plan.samples, chain.modal]
        inputs = [helper.make_tensor_value_info(self._samples, element, shape)]
        outputs = [helper.make_tensor_value_info(chain.output, element, size)]
        for before, after, kept in self._states:
            inputs.append(helper.make_tensor_value_info(before, element, kept))
            outputs.append(helper.make_tensor_value_info(after, element, kept))
        del graph.input[:], graph.output[:]
        graph.input.extend(inputs)
        graph.output.extend(outputs)
        self._writer.commit(self._model)
        used = {node.domain for node in graph.node} | {""}
        kept_opsets = [opset for opset in self._model.opset_import if opset.domain in used]
        del self._model.opset_import[:]
        self._model.opset_import.extend(kept_opsets)

    def _window(self) -> _Rows:
        """The samples, normalised, as rows of one plane."""
        samples, source = self._plan.samples, self._samples
        if self._streams > 1:
            source = self._writer.add("Transpose", [source], "samples.beside", perm=[2, 1, 0, 3])
        wide = self._reshape(source, (samples, self._modal), "samples.columns")
        for one in self._chain.pointwise:  # before a layer there is one plane: a column is its channels
            operand = one.operand if one.operand is None or not one.operand.ndim else self._tiled(one.operand)[:, 0]
            wide = self._apply(one, wide, operand)
        return _Rows(self._reshape(wide, (samples * self._modal, 1), "samples.rows"), samples, 1, 1)

    def _layer(self, layer: Layer, stage: Stage, value: _Rows) -> _Rows:
        made = self._product(layer, stage, self._hold(f"{layer.name}.source", stage.source, value))
        if layer.block is not None:
            made = self._gate(layer, layer.block, stage, self._hold(f"{layer.name}.mapped", stage.mapped, made))
        if not layer.stays_finite:
            made = self._main(made, layer.name)
        for one in layer.pointwise:
            made = self._value_by_value(one, made)
        return made

    def _hold(self, name: str, held: Held, value: _Rows) -> _Rows:
        """What was kept in front of what is new, and what to keep of both."""
        if held.kept:
            before, after = self._state(name, (len(held.state) * self._modal, value.width))
            joined = self._writer.add("Concat", [before, value.name], name, axis=0)
            self._writer.add("Gather", [joined, self._index(held.kept, f"{name}.kept")], f"{name}.keep", after, axis=0)
        elif ZERO in held.state:
            amounts = self._writer.integers(f"{name}.pads", [self._modal, 0, 0, 0])
            joined = self._writer.add("Pad", [value.name, amounts], name)
        else:
            return value
        return _Rows(joined, len(held.state) + value.columns, value.width, value.maps)

    def _state(self, name: str, shape: tuple[int, int]) -> tuple[str, str]:
        before, after = (self._writer.graph.fresh(f"{name}.{which}") for which in ("state", "next"))
        self._states.append((before, after, shape))
        return before, after

    def _index(self, places: Sequence[int], name: str) -> str:
        return self._writer.integers(name, self._rows_of(np.asarray(places, np.int64)[:, None])[:, 0])

    def _rows_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Columns [n, k] as rows [n*m, k]."""
        rows = places[:, None, :] * self._modal + np.arange(self._modal)[:, None]
        return rows.reshape(-1, places.shape[1])

    def _product(self, layer: Layer, stage: Stage, source: _Rows) -> _Rows:
        writer, name, linear = self._writer, layer.name, layer.linear
        index = self._rows_of(np.asarray(stage.taps, np.int64))
        matrix = source.name
        if index.shape[1] > 1 or not np.array_equal(index[:, 0], np.arange(source.columns * self._modal)):
            gathered = writer.add("Gather", [matrix, writer.integers(f"{name}.index", index)], f"{name}.gather", axis=0)
            matrix = self._reshape(gathered, (len(index), index.shape[1] * source.width), f"{name}.taps")
        weight, bias = linear.weight, linear.bias
        if linear.mean_weight is not None and (name in self._integers or layer.mean_is_column):
            weight = np.concatenate([weight, linear.mean_weight[None]])
            bias = np.append(bias, linear.mean_bias)
        weight = np.pad(weight, ((0, 0), (0, source.width - source.maps), (0, 0)))  # none for the riding mean
        columns = weight.transpose(2, 1, 0).reshape(-1, len(weight))
        inputs = [matrix, writer.constant(f"{name}.weight", columns), writer.constant(f"{name}.bias", bias)]
        return _Rows(writer.add("Gemm", inputs, name, f"{name}.maps"), len(stage.taps), len(weight), layer.maps)

    def _gate(self, layer: Layer, block: Block, stage: Stage, mapped: _Rows) -> _Rows:
        writer, name = self._writer, block.name
        count = len(stage.chosen)
        logits = writer.constant(f"{name}.bias", np.array([block.bias]))
        for number, plane in enumerate(self._planes(layer, block, mapped)):
            logits = self._band(block, number, stage, mapped, (plane, logits))
        gate = writer.add("Sigmoid", [logits], f"{name}.sigmoid")
        if block.pooling != "mean":
            mapped = self._main(mapped, name)
        main = mapped.name
        if stage.chosen != tuple(range(mapped.columns)):
            main = writer.add("Gather", [main, self._index(stage.chosen, f"{name}.chosen")], f"{name}.choose", axis=0)
        gated = writer.add("Mul", [main, gate], name, f"{name}.gated")
        return _Rows(gated, count, mapped.width, mapped.maps)

    def _planes(self, layer: Layer, block: Block, mapped: _Rows) -> list[str]:
        """What the gate reads of each row: [columns*m, 1] each."""
        planes = []
        if block.pooling != "max" and mapped.width == mapped.maps:
            mean = self._writer.constant(f"{block.name}.mean.weight", 1 / (mapped.maps * layer.scale[:, None]))
            planes.append(self._writer.add("MatMul", [mapped.name, mean], f"{block.name}.mean"))
        elif block.pooling != "max":
            planes.append(self._slice(mapped.name, mapped.maps, mapped.maps + 1, f"{block.name}.mean"))
        if block.pooling != "mean":
            main = self._main(mapped, f"{block.name}.pooled")
            planes.append(self._writer.add("ReduceMax", [main.name], f"{block.name}.max", axes=[1], keepdims=1))
        return planes

    def _band(self, block: Block, number: int, stage: Stage, mapped: _Rows, terms: tuple[str, str]) -> str:
        """The gate's convolution over one plane [columns*m, 1] plus what it has so far: [chosen*m, 1]."""
        writer, name, modal = self._writer, f"{block.name}.band_{number}", self._modal
        weight, count = block.weight[0, number], len(stage.chosen)
        plane, before = terms
        size, along_time = count * mapped.columns, weight.shape[1] == 1
        if size * modal**2 > _LARGEST_BAND and not (along_time and size <= _LARGEST_BAND):
            return self._gathered_band(block, number, stage, mapped, terms)
        if not along_time or size * modal**2 <= _LARGE_BAND:
            matrix = band(weight, block.pads[1], stage.gate_taps, mapped.columns, self._chain.modal, self._streams)
            return writer.add("Gemm", [writer.constant(f"{name}.weight", matrix), plane, before], name)
        matrix = band(weight, 0, stage.gate_taps, mapped.columns, 1, 1)
        seen = self._reshape(plane, (mapped.columns, modal), f"{name}.plane")
        if number:
            before = self._reshape(before, (count, modal), f"{name}.before")
        made = writer.add("Gemm", [writer.constant(f"{name}.weight", matrix), seen, before], name)
        return self._reshape(made, (count * modal, 1), f"{name}.rows")

    def _gathered_band(self, block: Block, number: int, stage: Stage, mapped: _Rows, terms: tuple[str, str]) -> str:
        """The same, as a product with the gate's few weights of what they read."""
        writer, name, weight = self._writer, f"{block.name}.band_{number}", block.weight[0, number]
        plane, before = terms
        index = band_rows(
            weight.shape[1], block.pads[1], stage.gate_taps, mapped.columns, self._chain.modal, self._streams
        )
        zero = writer.constant(f"{name}.zero", np.zeros((1, 1)))
        padded = writer.add("Concat", [plane, zero], f"{name}.padded", axis=0)
        taps = writer.add("Gather", [padded, writer.integers(f"{name}.index", index)], f"{name}.gather", axis=0)
        matrix = self._reshape(taps, (index.shape[0], index.shape[1]), f"{name}.taps")
        return writer.add("Gemm", [matrix, writer.constant(f"{name}.weight", weight.reshape(-1, 1)), before], name)

    def _main(self, value: _Rows, name: str) -> _Rows:
        """Without the riding mean."""
        if value.width == value.maps:
            return value
        made = self._slice(value.name, 0, value.maps, f"{name}.main")
        return _Rows(made, value.columns, value.maps, value.maps)

    def _slice(self, value: str, start: int, end: int, name: str) -> str:
        """Some maps of rows."""
        bounds = [self._writer.integers(f"{name}.{i}", [n]) for i, n in enumerate((start, end, 1))]
        return self._writer.add("Slice", [value, *bounds], name)

    def _value_by_value(self, one: Pointwise, value: _Rows) -> _Rows:
        """A pointwise node over rows, or over columns where its numbers differ between channels of the sensor."""
        if one.operand is None or not one.operand.ndim:
            return value.at(self._apply(one, value.name, one.operand))
        neutral = 1.0 if one.node.op_type in ("Mul", "Div") else 0.0  # keeps the riding mean finite
        operand = np.pad(one.operand, ((0, 0), (0, value.width - value.maps)), constant_values=neutral)
        if (operand == operand[0]).all():
            return value.at(self._apply(one, value.name, operand[0]))
        name = one.node.name or one.node.output[0]
        wide = self._reshape(value.name, (value.columns, self._modal * value.width), f"{name}.columns")
        made = self._apply(one, wide, self._tiled(operand).reshape(-1))
        return value.at(self._reshape(made, (value.columns * self._modal, value.width), f"{name}.rows"))

    def _tiled(self, operand: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers [m, c] of one stream for all of them."""
        return np.tile(operand, (self._streams, 1))

    def _apply(self, one: Pointwise, value: str, operand: NDArray[np.float64] | None) -> str:
        writer, node = self._writer, NodeProto()
        node.CopyFrom(one.node)
        output = writer.graph.fresh(f"{node.output[0]}.rows")
        inputs = [value, *node.input[1:]]
        if operand is not None:
            number = writer.constant(f"{node.name or node.output[0]}.operand", operand)
            inputs = [number, value] if one.place == 0 else [value, number]
        del node.input[:]
        node.input.extend(inputs)
        writer.keep(node, outputs=[output])
        return output

    def _reshape(self, value: str, shape: tuple[int, int], name: str) -> str:
        return self._writer.add("Reshape", [value, self._writer.integers(f"{name}.shape", shape)], name)

    def _sum(self, value: _Rows) -> None:
        """Columns to sums to logits, over the steps that are kept."""
        writer, sums, chain, streams = self._writer, self._plan.sums, self._chain, self._streams
        count, classes = len(sums.groups), len(chain.head)
        wide = self._reshape(value.name, (value.columns, self._modal * value.width), "sum.columns")
        groups = writer.add("MatMul", [writer.constant("sum.groups", sums.groups), wide], "sum.grouped")
        if streams > 1:
            groups = self._reshape(groups, (count * streams, chain.modal * value.width), "sum.streams")
        # A window's mean over its columns, whatever the plan sums.
        head = np.pad(chain.head / self._plan.columns, ((0, 0), (0, value.width - value.maps), (0, 0)))
        weight = writer.constant("head.weight", head.transpose(2, 1, 0).reshape(-1, classes))
        made = writer.add("MatMul", [groups, weight], "sum.classes")
        if streams > 1:
            made = self._reshape(made, (count, streams * classes), "sum.beside")
        if sums.history:
            before, after = self._state("sum.history", (sums.history * count, streams * classes))
            made = writer.add("Concat", [before, made], "sum.all", axis=0)
            bounds = [writer.integers(f"sum.keep.{i}", [n]) for i, n in enumerate((count, 2**31, 0))]
            writer.add("Slice", [made, *bounds], "sum.keep", after)
        logits = writer.add("MatMul", [writer.constant("sum.weights", sums.weights[None]), made], "sum.window")
        if streams > 1:
            logits = self._reshape(logits, (streams, classes), "sum.logits")
        writer.add("Add", [logits, writer.constant("head.bias", chain.bias)], "sum", chain.head_output)
