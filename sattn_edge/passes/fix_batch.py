"""The batch as a number, for compilers that know nothing of free dimensions or do better without.

    window [batch, 1, series, modal] -> ... -> logits [batch, classes]
                                     =>  window [n, 1, series, modal] -> ... -> logits [n, classes]

Nothing computes the batch in a source graph: shapes handed to Reshape are constants that leave it open by 0 or -1,
and stay right. Shapes that were written down between nodes are dropped, to be inferred anew.
"""

from __future__ import annotations

from onnx import ModelProto, ValueInfoProto

from sattn_edge.passes.base import NearMiss, PassReport


class FixBatch:
    """Sets the first dimension of inputs and outputs to `batch` windows."""

    name = "fix-batch"

    def __init__(self, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"a batch of {batch} windows")
        self._batch = batch

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: a free batch becomes `batch`. Rule 2: one that is another number stays: constants may hold it."""
        rows = [r for r in (*model.graph.input, *model.graph.output) if r.type.tensor_type.shape.dim]
        free = [row for row in rows if _batch_of(row) is None]
        fixed = [row for row in rows if _batch_of(row) not in (None, self._batch)]
        if fixed:
            reason = f"its batch is {_batch_of(fixed[0])} already, not free"
            return PassReport(self.name, 0, near_misses=(NearMiss(fixed[0].name, reason),))
        if not free:
            return PassReport(self.name, 0)
        for row in free:
            row.type.tensor_type.shape.dim[0].dim_value = self._batch
        model.graph.ClearField("value_info")
        return PassReport(self.name, 1, (f"batch {self._batch}",))


def _batch_of(row: ValueInfoProto) -> int | None:
    dim = row.type.tensor_type.shape.dim[0]
    return int(dim.dim_value) if dim.HasField("dim_value") else None
