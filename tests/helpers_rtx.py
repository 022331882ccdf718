"""What NVIDIA's compiler makes of a graph: TensorRT-RTX builds engines without a GPU and its log lists their kernels.

A failed build spoils the next one in its process, and the logger belongs to the process: so one process a build.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

TIMEOUT_S = 120
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class Kernel:
    """One entry of the engine's list of layers. `nodes` are the names of the ONNX nodes it computes."""

    name: str
    kind: str
    nodes: tuple[str, ...]


class BuildError(RuntimeError):
    """The compiler refused the graph; the message is its own."""


def kernels(model: ModelProto, arch: str = "sm86") -> list[Kernel]:
    """Compiles a graph of fixed batch, strongly typed, for one architecture, and lists the kernels in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        command = [sys.executable, __file__, str(path), arch.upper()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise BuildError(done.stderr.strip() or f"exit {done.returncode}")
    return [Kernel(row["name"], row["kind"], tuple(row["nodes"])) for row in json.loads(done.stdout)]


def _main(path: str, arch: str) -> None:
    log = _compile(Path(path).read_bytes(), arch)
    listed = [message for severity, message in log if message.startswith("Layers:")]
    if not listed:
        raise SystemExit("\n".join(message for severity, message in log if severity in ("ERROR", "INTERNAL_ERROR")))
    print(json.dumps(parse_layers(listed[-1])))


def parse_layers(message: str) -> list[dict[str, Any]]:
    """The entries of the engine inspector's text, up to its table of inputs and outputs."""
    layers = message.split("I/O Tensors:")[0]
    rows = re.findall(r"^Name: (\S+), LayerType: (\w+),.*?Metadata: (.*)$", layers, re.MULTILINE)
    return [{"name": name, "kind": kind, "nodes": _NODE.findall(nodes)} for name, kind, nodes in rows]


def _compile(data: bytes, arch: str) -> list[tuple[str, str]]:
    """The compiler's messages, (severity, text) each."""
    import tensorrt_rtx as trt

    messages: list[tuple[str, str]] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            messages.append((severity.name, message))

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(data) or parser.num_errors or not network.num_outputs:
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise SystemExit("; ".join(errors) or "the parser found no outputs")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, arch), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    builder.build_serialized_network(network, config)
    return messages


if __name__ == "__main__":
    _main(*sys.argv[1:])
