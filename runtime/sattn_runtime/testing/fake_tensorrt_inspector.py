"""Layers as text: the JSON of the engine inspector by generation, its one-line form, and what a build logs of them.

release        each tensor of a layer in the JSON
8.6, 10        "Format/Datatype": "Row major linear FP16 format"
11, RTX        "Datatype": "Half", "Format": "(Linear) Row major linear format"
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from sattn_runtime.testing.fake_tensorrt_layers import Layer, Tensor
from sattn_runtime.testing.fake_tensorrt_plan import Header, Shape

_OLD = {"Float": "Row major linear FP32", "Half": "Row major linear FP16 format", "Int8": "Row major Int8 format"}
_FORMAT = "(Linear) Row major linear format"
_BETWEEN = "\x1f"


def layer_json(layer: Layer, *, old: bool, detailed: bool) -> Any:
    """One entry of "Layers": an object, or a name alone."""
    if not detailed:
        return layer.name
    return {
        "Name": layer.name,
        "LayerType": layer.kind,
        "Inputs": [_tensor_json(tensor, old) for tensor in layer.inputs],
        "Outputs": [_tensor_json(tensor, old) for tensor in layer.outputs],
        "TacticName": "",
        "StreamId": 0,
        "Metadata": _metadata(layer),
    }


def engine_json(layers: Sequence[Layer], bindings: Sequence[str], header: Header) -> str:
    """All of an engine; no layers at all where it was built with verbosity NONE."""
    old, detailed = _is_old(header), header.verbosity == "DETAILED"
    shown = [] if header.verbosity == "NONE" else [layer_json(layer, old=old, detailed=detailed) for layer in layers]
    return json.dumps({"Layers": shown, "Bindings": list(bindings)}, indent=1)


def engine_lines(layers: Sequence[Layer], bindings: Sequence[str], header: Header) -> str:
    """The same, one line a layer."""
    if header.verbosity != "DETAILED":
        shown = [] if header.verbosity == "NONE" else [layer.name for layer in layers]
        return "\n".join(["Layers:", *shown, "", "Bindings:", *bindings])
    return "\n".join(["Layers:", *(layer_line(layer) for layer in layers), "", "Bindings:", *bindings])


def layer_line(layer: Layer) -> str:
    """One layer as generation 11 and TensorRT-RTX log it."""
    ends = [f"{word}: {_tensor_list(tensors)}" for word, tensors in (("Inputs", layer.inputs), ("Constants", ()))]
    return (
        f"Name: {layer.name}, LayerType: {layer.kind}, {', '.join(ends)}, Outputs: {_tensor_list(layer.outputs)}, "
        f"TacticName: , StreamId: 0, Metadata: {_metadata(layer)}"
    )


def build_log(layers: Sequence[Layer], ends: tuple[Sequence[Tensor], Sequence[Tensor]], header: Header) -> str:
    """The one VERBOSE message that a build with verbosity DETAILED gives. ends: inputs and outputs of the network."""
    if _is_old(header):
        return "\n".join(["Engine Layer Information:", *(_old_line(layer) for layer in layers)])
    table = [_end_line(tensor, "Input", header) for tensor in ends[0]]
    table += [_end_line(tensor, "Output", header) for tensor in ends[1]]
    return "\n".join(["Layers:", *(layer_line(layer) for layer in layers), "", "I/O Tensors:", *table, ""])


def _is_old(header: Header) -> bool:
    return header.module == "tensorrt" and int(header.release.partition(".")[0]) < 11


def _metadata(layer: Layer) -> str:
    return _BETWEEN.join(f"[ONNX Layer: {node}]" for node in layer.nodes)


def _tensor_json(tensor: Tensor, old: bool) -> dict[str, Any]:
    dims = {"Name": tensor.name, "Dimensions": list(tensor.dims)}
    if old:
        return {**dims, "Format/Datatype": _OLD.get(tensor.dtype, f"Row major linear {tensor.dtype}")}
    return {**dims, "Datatype": tensor.dtype, "Format": _FORMAT}


def _tensor_list(tensors: Sequence[Tensor]) -> str:
    if not tensors:
        return "[]"
    return f"[ {', '.join(_tensor_line(tensor) for tensor in tensors)}]"


def _tensor_line(tensor: Tensor) -> str:
    dims = tensor.dims
    strides = tuple(accumulate((1, *reversed(dims[1:])), lambda a, b: a * b))[::-1] if dims else ()
    order = tuple(reversed(range(len(dims))))
    return (
        f"{{ Name: {tensor.name}, Dimensions: {_shape(dims)}, Strides: {_shape(strides)}, "
        f"StrideOrder: {_shape(order)}, Datatype: {tensor.dtype}, Format: {_FORMAT} }}"
    )


def _old_line(layer: Layer) -> str:
    def ends(tensors: Sequence[Tensor]) -> str:
        return ", ".join(f"{tensor.name} ({tensor.dtype}{_shape(tensor.dims)})" for tensor in tensors)

    return f"Layer({layer.kind}): {layer.name}, Tactic: 0x0, {ends(layer.inputs)} -> {ends(layer.outputs)}"


def _end_line(tensor: Tensor, mode: str, header: Header) -> str:
    least, usual, most = header.ranges.get(tensor.name, (tensor.dims,) * 3)
    shapes = (
        "" if mode == "Output" else f"MinShape: {_shape(least)}, OptShape: {_shape(usual)}, MaxShape: {_shape(most)}, "
    )
    return (
        f" Name: {tensor.name}, IOMode: {mode}, DataType: {tensor.dtype}, Dimensions: {_shape(tensor.dims)}, "
        f"Location: Device, IsShapeInferenceIO: false, ProfileInfo: [ {{ {shapes}Format: Row major linear }}]"
    )


def _shape(dims: Shape) -> str:
    return f"[{','.join(str(size) for size in dims)}]"
