"""The network of the fake, and the parser that fills it: it keeps the ONNX bytes it was given.

What it refuses is what TensorRT's parsers were seen to refuse (`_Refusals`), with their error codes. What they were
seen to take without a word it takes too: an opset nobody knows (but 8.6), a foreign domain, and bytes that are no graph
but can be read as an empty one, of which they make a network without outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from sattn_runtime.testing.fake_tensorrt_base import Dims, Native
from sattn_runtime.testing.fake_tensorrt_layers import Tensor, inputs_of, outputs_of

_TYPES = {"Float": "FLOAT", "Half": "HALF", "UInt8": "UINT8"}
_UNSUPPORTED = ("Det", "Unique")
_NO_PLUGIN = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
_VARINT, _BYTES, _END_GROUP, _FIXED = 0, 2, 4, {1: 8, 5: 4}  # how fields of protobuf are written
_LAST_OPSET_OF_8 = 18
"""Of 8.6: 17 is the last it knows; 18 it takes, and averages over everything where axes are an input."""


class ITensor(Native):
    """A tensor of the network."""

    _tensor: Tensor

    @property
    def name(self) -> str:
        """As in the graph."""
        return self._tensor.name

    @property
    def shape(self) -> Dims:
        """A free axis is -1."""
        return Dims(self._tensor.dims)

    @property
    def dtype(self) -> Any:
        """Element type."""
        return self._world.member("DataType", type_name(self._tensor))


def type_name(tensor: Tensor) -> str:
    """The name of a tensor's element type in DataType."""
    return _TYPES.get(tensor.dtype, tensor.dtype.upper())


class INetworkDefinition(Native):
    """A graph, once a parser has put one in."""

    _flags: int
    _onnx: bytes
    _inputs: tuple[Tensor, ...]
    _outputs: tuple[Tensor, ...]
    _nodes: tuple[str, ...]

    @property
    def num_inputs(self) -> int:
        """How many."""
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        """How many; 0 where the parser found no graph."""
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        """As many as there are nodes."""
        return len(self._nodes)

    def get_input(self, index: int) -> ITensor | None:
        """An input, None beyond the last."""
        return self._end(self._inputs, index)

    def get_output(self, index: int) -> ITensor | None:
        """An output, None beyond the last."""
        return self._end(self._outputs, index)

    def _end(self, tensors: tuple[Tensor, ...], index: int) -> ITensor | None:
        if not 0 <= index < len(tensors):
            self._world.say("ERROR", f"API Usage Error (Parameter check failed: index {index} of {len(tensors)})")
            return None
        made = self._world.make(ITensor)
        made._tensor = tensors[index]
        return made

    def _has(self, flag: str) -> bool:
        flags = self._world.types["NetworkDefinitionCreationFlag"].__members__
        return flag in flags and bool(self._flags >> int(flags[flag]) & 1)


class ParserError(Native):
    """What a parser did not like."""

    _code: str
    _desc: str
    _at: int
    _node: tuple[str, str]

    def code(self) -> Any:
        """A member of ErrorCode."""
        return self._world.member("ErrorCode", self._code)

    def desc(self) -> str:
        """In the parser's words."""
        return self._desc

    def node(self) -> int:
        """Index of the node, -1 for none."""
        return self._at

    def node_name(self) -> str:
        """Its name."""
        return self._node[0]

    def node_operator(self) -> str:
        """Its operator."""
        return self._node[1]

    def file(self) -> str:
        """Source file of the parser."""
        return "fake_tensorrt_network.py"

    def line(self) -> int:
        """Line there."""
        return 0

    def func(self) -> str:
        """Function there."""
        return "parse"


Refusal = tuple[str, str, int, tuple[str, str]]


class OnnxParser(Native):
    """Reads ONNX into a network."""

    def __init__(self, network: INetworkDefinition, logger: object) -> None:
        self._world.check(network, "INetworkDefinition")
        self._world.register(logger, "OnnxParser")
        self._network, self._errors = network, list[ParserError]()

    def parse(self, model: bytes, path: str | None = None) -> bool:  # noqa: ARG002 - where external data would be
        """False if there is an error; True is no promise that there is a network."""
        self._world.call("OnnxParser.parse")
        network = self._network
        if network._onnx:
            self._world.say("ERROR", "Parse was called with a non-empty network definition")
            return False
        try:
            graph = read_as_parsers_do(bytes(model))
        except DecodeError:
            return self._refuse(("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model.", -1, ("", "")))
        refusal = next(self._refusals(graph), None)
        if refusal is not None:
            return self._refuse(refusal)
        network._onnx = bytes(model)
        network._inputs, network._outputs = tuple(inputs_of(graph)), tuple(outputs_of(graph))
        network._nodes = tuple(node.name for node in graph.graph.node)
        if self._world.device.config.fault("outputs", network._nodes) == 0:
            network._outputs = ()
        return True

    @property
    def num_errors(self) -> int:
        """How many."""
        return len(self._errors)

    def get_error(self, index: int) -> ParserError | None:
        """An error, None beyond the last."""
        if not 0 <= index < len(self._errors):
            self._world.say("ERROR", f"error {index} of {len(self._errors)} was asked for")
            return None
        return self._errors[index]

    def clear_errors(self) -> None:
        """Forgets them."""
        self._errors.clear()

    def _refuse(self, refusal: Refusal) -> bool:
        error = self._world.make(ParserError)
        error._code, error._desc, error._at, error._node = refusal
        self._errors.append(error)
        self._world.say("ERROR", f"While parsing node number {error._at} [{error._node[0]}]: {error._desc}")
        return False

    def _refusals(self, model: ModelProto) -> Iterator[Refusal]:
        release, nobody = self._world.release, ("", "")
        fault = self._world.device.config.fault("parse", [node.name for node in model.graph.node])
        if fault is not None:
            yield "UNSUPPORTED_GRAPH", str(fault), -1, nobody
        if release.major == 8 and not self._network._has("EXPLICIT_BATCH"):
            text = "This version of the ONNX parser only supports networks with an explicit batch dimension."
            yield "UNSUPPORTED_GRAPH", text, -1, nobody
        opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
        if release.major == 8 and opset > _LAST_OPSET_OF_8:
            yield "UNSUPPORTED_GRAPH", f"opset {opset} is not supported", -1, nobody
        yield from _Refusals(model, half_scales=release.major > 8).find()


def read_as_parsers_do(data: bytes) -> ModelProto:
    """A graph, of what comes before the first end of a group: many a text has one early, and is an empty graph then.

    Raises:
        DecodeError: it can't be read even so.
    """
    try:
        return cast(ModelProto, ModelProto.FromString(data))
    except DecodeError:
        return cast(ModelProto, ModelProto.FromString(data[: _end_of_group(data)]))


def _end_of_group(data: bytes) -> int:
    """Where the first tag that ends a group stands among the outermost fields; all of it where there is none."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _END_GROUP:
            return start
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            size, at = _varint(data, at)
            at += size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            break
    return len(data)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            break
    return value, at


class _Refusals:
    """What is wrong with the nodes of a graph."""

    def __init__(self, model: ModelProto, *, half_scales: bool) -> None:
        graph = model.graph
        self._nodes, self._half_scales = list(graph.node), half_scales
        self._functions = {function.name for function in model.functions}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._known = {info.name for info in graph.input} | set(self._constants)

    def find(self) -> Iterator[Refusal]:
        """The first refusal of each node, in order."""
        for at, node in enumerate(self._nodes):
            for code, text in self._of(node):
                yield code, text, at, (node.name, node.op_type)
            self._known.update(node.output)

    def _of(self, node: NodeProto) -> Iterator[tuple[str, str]]:
        if node.op_type in _UNSUPPORTED:
            yield "UNSUPPORTED_NODE", "false"
        elif node.op_type not in self._functions and not onnx.defs.has(node.op_type):
            yield "INVALID_NODE", _NO_PLUGIN
        if any(name and name not in self._known for name in node.input):
            yield "INVALID_GRAPH", "Node input was not registered."
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield from self._of_quantisation(node)

    def _of_quantisation(self, node: NodeProto) -> Iterator[tuple[str, str]]:
        types = [getattr(self._constants.get(name), "data_type", TensorProto.UNDEFINED) for name in node.input]
        if node.op_type == "DequantizeLinear" and types[0] == TensorProto.INT32:
            yield "INVALID_NODE", f"{node.name}: input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8"
        if types[1] == TensorProto.FLOAT16 and not self._half_scales:
            yield "INVALID_NODE", f"{node.name}: the scale must be Float, it is Half"
        zero = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and numpy_helper.to_array(zero).any():
            yield "INVALID_NODE", "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported."
