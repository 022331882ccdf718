"""Mutators of everything but nodes: tensors, inputs and outputs, functions, the header."""

from __future__ import annotations

import random
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from tests.fuzz.mutate_common import (
    change_one,
    resize,
    some_int,
    some_name,
)


def dims(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    values = list(tensor.dims)
    rng.choice((change_one, change_one, resize, lambda v, r: r.shuffle(v)))(values, rng)
    del tensor.dims[:]
    tensor.dims.extend(values)


def reshape(model: ModelProto, rng: random.Random) -> None:
    """Other dims for the same number of elements: the data fits, the operator may not."""
    tensor = rng.choice(model.graph.initializer)
    count = 1
    for d in tensor.dims:
        count *= d
    shapes = (
        [count],
        [1, count],
        [count, 1, 1, 1],
        [1] * 7 + [count],
        list(reversed(tensor.dims)),
        [1, *tensor.dims],
    )
    del tensor.dims[:]
    tensor.dims.extend(rng.choice(shapes))


def shrink(model: ModelProto, rng: random.Random) -> None:
    """Fewer elements, in dims and data alike: whatever reads the old number reads past the end."""
    tensor = rng.choice(model.graph.initializer)
    array = onnx.numpy_helper.to_array(tensor)
    axis = rng.randrange(max(1, array.ndim))
    array = array.reshape(-1)[:1] if array.ndim == 0 else array.take(range(rng.randrange(array.shape[axis] + 1)), axis)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array.copy(), tensor.name))


def data_type(model: ModelProto, rng: random.Random) -> None:
    rng.choice(model.graph.initializer).data_type = rng.choice((*TensorProto.DataType.values(), 99, -1))


def data_type_of_input(model: ModelProto, rng: random.Random) -> None:
    value = rng.choice((*model.graph.input, *model.graph.output))
    value.type.tensor_type.elem_type = rng.choice((*TensorProto.DataType.values(), 99, -1))


def data_length(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    raw = tensor.raw_data
    tensor.raw_data = rng.choice((b"", raw[:-1], raw[: len(raw) // 2], raw + raw, raw + b"\x00" * 4))


def data_values(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    pattern = rng.choice((b"\x00", b"\xff", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x01\x00\x00\x00"))
    tensor.raw_data = (pattern * len(tensor.raw_data))[: len(tensor.raw_data)]


def data_field(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")
    field, value = rng.choice((("float_data", 1.5), ("int32_data", 7), ("int64_data", -1), ("string_data", b"x")))
    getattr(tensor, field).extend([value] * rng.choice((1, 3, 1000)))


def external_data(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.8:
        tensor.ClearField("raw_data")
    for key, value in (
        ("location", rng.choice(("/etc/passwd", "../secret.bin", "weights.bin", "/dev/zero", ""))),
        ("offset", str(some_int(rng))),
        ("length", str(some_int(rng))),
    ):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def tensor_name(model: ModelProto, rng: random.Random) -> None:
    rng.choice((*model.graph.initializer, *model.graph.input, *model.graph.output)).name = some_name(model, rng)


def drop_part(model: ModelProto, rng: random.Random) -> None:
    parts = (
        model.graph.initializer,
        model.graph.input,
        model.graph.output,
        model.functions,
        model.opset_import,
    )
    part: Any = rng.choice([p for p in parts if len(p)])
    part.pop(rng.randrange(len(part)))


def duplicate_part(model: ModelProto, rng: random.Random) -> None:
    parts = (
        model.graph.initializer,
        model.graph.input,
        model.graph.output,
        model.functions,
        model.opset_import,
    )
    part: Any = rng.choice([p for p in parts if len(p)])
    part.append(rng.choice(part))


def opset(model: ModelProto, rng: random.Random) -> None:
    imports = [*model.opset_import, *(o for f in model.functions for o in f.opset_import)]
    rng.choice(imports).version = rng.choice((0, 1, 7, 12, 13, 16, 17, 18, 19, 20, 23, 99, -1, 2**62))


def opset_domain(model: ModelProto, rng: random.Random) -> None:
    rng.choice(model.opset_import).domain = rng.choice(("", "ai.onnx", "com.microsoft", "x", "sattn_edge"))


def ir_version(model: ModelProto, rng: random.Random) -> None:
    model.ir_version = rng.choice((0, 1, 3, 7, 8, 9, 10, 11, 14, 99, -1, 2**62))


def metadata(model: ModelProto, rng: random.Random) -> None:
    for i in range(rng.choice((1, 100))):
        entry = model.metadata_props.add()
        entry.key = rng.choice(("sattn_edge.format", "", f"key{i}"))
        entry.value = "x" * rng.choice((0, 10, 100_000))


def input_shape(model: ModelProto, rng: random.Random) -> None:
    value = rng.choice((*model.graph.input, *model.graph.output))
    shape = value.type.tensor_type.shape
    if not shape.dim or rng.random() < 0.2:
        shape.dim.add().dim_value = some_int(rng)
    elif rng.random() < 0.2:
        shape.dim.pop()
    else:
        rng.choice(shape.dim).dim_value = some_int(rng)


def input_type(model: ModelProto, rng: random.Random) -> None:
    value = rng.choice((*model.graph.input, *model.graph.output))
    inner = onnx.TypeProto()
    inner.CopyFrom(value.type)
    depth = rng.choice((1, 1, 90))
    for _ in range(depth):
        outer = onnx.TypeProto()
        rng.choice((outer.sequence_type, outer.optional_type)).elem_type.CopyFrom(inner)
        inner = outer
    value.type.CopyFrom(inner)


def value_info(model: ModelProto, rng: random.Random) -> None:
    """A described shape that contradicts what the graph computes."""
    shape = [some_int(rng) for _ in range(rng.randrange(6))]
    kind = rng.choice(TensorProto.DataType.values())
    value = helper.make_tensor_value_info(some_name(model, rng), kind, None)
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size
    model.graph.value_info.append(value)


def function_part(model: ModelProto, rng: random.Random) -> None:
    """A function with another name, domain, input or output, or one that calls itself."""
    if not model.functions:
        return
    function = rng.choice(model.functions)
    what = rng.randrange(6)
    if what == 0:
        function.name = rng.choice(("Conv", "", "Other"))
    elif what == 1:
        function.domain = rng.choice(("", "ai.onnx", "x"))
    elif what == 2:
        rng.choice((function.input, function.output)).append(some_name(model, rng))
    elif what == 3:
        rng.choice((function.input, function.output)).pop()
    elif what == 4:
        function.node.add(op_type=function.name, domain=function.domain, input=function.input, output=["again"])
    else:
        del function.attribute[:]


GRAPH_CHANGES = (
    dims, reshape, shrink, data_type, data_type_of_input, data_length, data_values, data_field,
    external_data, tensor_name, drop_part, duplicate_part, opset, opset_domain, ir_version,
    metadata, input_shape, input_type, value_info, function_part,
)  # fmt: skip
