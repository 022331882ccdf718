"""An engine of the fake at work: ONNX Runtime on one thread of the CPU, on the graph in the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sattn_runtime.testing.fake_tensorrt_layers import inputs_of, outputs_of
from sattn_runtime.testing.fake_tensorrt_plan import Header, as_built

_QUIET = 3


class Session:
    """Runs the graph of one plan."""

    def __init__(self, header: Header, onnx: bytes) -> None:
        import onnxruntime  # a parser or an inspector alone does not need it

        self.header, self.model = header, as_built(header, onnx)
        self.inputs, self.outputs = inputs_of(self.model), outputs_of(self.model)
        self.nodes = tuple(node.name for node in self.model.graph.node)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        data = self.model.SerializeToString()
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, NDArray[Any]], offset: float = 0.0) -> dict[str, NDArray[Any]]:
        """The outputs by name; offset is added to what is floating point. A poisoned engine gives 1 - that."""
        names = [tensor.name for tensor in self.outputs]
        values = cast("list[NDArray[Any]]", self._session.run(names, dict(feeds)))
        return {name: self._spoilt(value, offset) for name, value in zip(names, values, strict=True)}

    def _spoilt(self, value: NDArray[Any], offset: float) -> NDArray[Any]:
        if not np.issubdtype(value.dtype, np.floating):
            return value
        wrong = 1 - value if self.header.poisoned else value
        return np.asarray(wrong + offset, value.dtype)
