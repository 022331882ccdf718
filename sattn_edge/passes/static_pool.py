"""Pooling over the whole time axis as a mean with constant axes.

    AveragePool<kernel [t, 1], no padding>(x [b, c, t, m])   =>  ReduceMean<axes [2], keepdims 1>(x)
    GlobalAveragePool(x [b, c, t, 1])                        =>  ReduceMean<axes [2], keepdims 1>(x)

Algebra: all three are the mean over t of each feature map and channel; the mean says so without repeating the
window's length. A global pool over time and more than one channel of a sensor stays what it is.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, helper

from sattn_edge.graph import Graph, attribute, replace_nodes
from sattn_edge.passes.base import NearMiss, PassReport


class StaticPool:
    """Writes the pool over time as ReduceMean."""

    name = "static-pool"

    def __call__(self, model: ModelProto) -> PassReport:
        """Rule 1: the kernel spans all of time, nothing of modal, and there is no padding.

        Rule 2: a global pool, where modal is 1.
        """
        graph = Graph(model, shapes=True)
        pools = [n for n in model.graph.node if n.op_type == "AveragePool" or _is_global(graph, n)]
        misses = [NearMiss(n.name, reason) for n in pools if (reason := _why_not(graph, n))]
        whole = [n for n in pools if not _why_not(graph, n)]
        names = tuple(n.name for n in whole)
        replace_nodes(model, [([n], _mean_over_time(n)) for n in whole])
        return PassReport(self.name, len(names), names, tuple(misses))


def _mean_over_time(pool: NodeProto) -> NodeProto:
    return helper.make_node("ReduceMean", [pool.input[0]], [pool.output[0]], name=pool.name, axes=[2], keepdims=1)


def _is_global(graph: Graph, node: NodeProto) -> bool:
    if node.op_type != "GlobalAveragePool":
        return False
    shape = graph.shapes.get(node.input[0], ())
    return len(shape) == 4 and shape[3] == 1


def _why_not(graph: Graph, node: NodeProto) -> str:
    if node.op_type == "GlobalAveragePool":
        return ""
    shape = graph.shapes.get(node.input[0], ())
    if len(shape) != 4 or shape[2] is None:
        return f"its input has shape {list(shape)}, not [batch, maps, time, channels]"
    kernel = list(attribute(node, "kernel_shape", []))
    if kernel != [shape[2], 1]:
        return f"its kernel {kernel} is not the whole time axis [{shape[2]}, 1]"
    if any(attribute(node, "pads", [])) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return "it is padded"
    return ""
