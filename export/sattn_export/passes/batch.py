"""A free batch axis, and no shape that has to be computed.

input [1, 1, t, m]              =>  input [batch, 1, t, m]
Shape -> Gather -> ... -> Reshape(x, s) with result [b, k]   =>  Reshape(x, [-1, k])
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from sattn_edge.errors import CheckpointError
from sattn_edge.graph import Graph, Shape, attribute, set_attribute, value_shapes
from sattn_edge.passes import PassReport

BATCH = "batch"
# Stands for the batch while shapes are inferred: large and prime, so that no other axis or product of axes equals it.
_PROBE = 1009


class FreeBatch:
    """Frees the batch axis and writes every Reshape with constant numbers."""

    name = "free-batch"

    def __init__(self, subject: str) -> None:
        self._subject = subject

    def __call__(self, model: ModelProto) -> PassReport:
        """Rules 1 and 2; raises CheckpointError where a shape stays computed or the batch stays fixed."""
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        fixed = batch.dim_value if batch.HasField("dim_value") else None
        if fixed is not None and fixed != 1:
            raise CheckpointError(
                self._subject,
                f"its batch axis is fixed at {fixed}",
                "a free axis, or 1",
                "export it with batch 1",
            )
        batch.dim_value = fixed or _PROBE
        model.graph.ClearField("value_info")
        shapes = self._shapes(model)
        reshapes = [node for node in model.graph.node if node.op_type == "Reshape"]
        changed = sum(self._static(model, node, shapes, fixed or _PROBE) for node in reshapes)
        batch.dim_value = _PROBE
        self._check_output(model)
        for row in (model.graph.input[0], model.graph.output[0]):
            row.type.tensor_type.shape.dim[0].dim_param = BATCH
        return PassReport(self.name, changed + int(fixed is not None), ())

    def _shapes(self, model: ModelProto) -> dict[str, Shape]:
        model.graph.output[0].type.tensor_type.ClearField("shape")
        return value_shapes(model)

    def _static(self, model: ModelProto, node: NodeProto, shapes: dict[str, Shape], batch: int) -> bool:
        """Writes one Reshape's target as [-1, numbers]; False where it already was."""
        graph = Graph(model)
        target = shapes.get(node.output[0])
        source = shapes.get(node.input[0])
        if target is None or None in target or source is None:
            raise CheckpointError(
                self._subject,
                f"the shape that node '{node.name}' (Reshape) gives depends on its data",
                todo=_HOW,
            )
        if not target or target[0] != batch or source[0] != batch:
            return False  # not an axis of the batch: a constant of the network
        written = graph.constant(node.input[1])
        copies = written is not None and written[0] == 0 and not attribute(node, "allowzero", 0)
        set_attribute(node, "allowzero", None)
        if written is not None and (written[1:] > 0).all() and (written[0] < 0 or copies):
            return False
        sizes = np.asarray([-1, *target[1:]], dtype=np.int64)
        node.input[1] = graph.add_constant(f"{node.output[0]}.shape", sizes)
        return True

    def _check_output(self, model: ModelProto) -> None:
        """With the batch at a number that nothing else has, the logits must be [that number, classes]."""
        shape = self._shapes(model).get(model.graph.output[0].name)
        if shape is None or len(shape) != 2 or shape[0] != _PROBE or shape[1] is None:
            raise CheckpointError(
                self._subject,
                f"for {_PROBE} windows the network gives {list(shape) if shape else 'an unknown shape'}",
                f"logits [{_PROBE}, classes]",
                _HOW,
            )
        dims = model.graph.output[0].type.tensor_type.shape.dim
        del dims[:]
        for size in shape:
            dims.add(dim_value=size)


_HOW = "a network maps [batch, 1, series, modal] to [batch, classes] for any batch"
