"""The runtime side of the fake: engines out of plans, and contexts that execute them on the fake device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattn_runtime.testing.fake_tensorrt_base import Dims, IHostMemory, Native, host_memory
from sattn_runtime.testing.fake_tensorrt_enums import NUMPY
from sattn_runtime.testing.fake_tensorrt_inspector import engine_json, engine_lines, layer_json, layer_line
from sattn_runtime.testing.fake_tensorrt_layers import Layer, Layers, Tensor
from sattn_runtime.testing.fake_tensorrt_network import type_name
from sattn_runtime.testing.fake_tensorrt_plan import Header, PlanError, Shape, decode
from sattn_runtime.testing.fake_tensorrt_session import Session

_NO_GPU = "CUDA initialization failure with error: 100"


class Runtime(Native):
    """Makes engines of plans."""

    def __init__(self, logger: object) -> None:
        self._world.register(logger, "InferRuntime")
        self._world.call("Runtime")
        if not self._world.release.rtx and not self._world.device.config.visible:
            self._world.say("ERROR", _NO_GPU)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """An engine, None for what is no plan of this release and GPU."""
        self._world.call("Runtime.deserialize_cuda_engine")
        try:
            data = bytes(memoryview(serialized_engine))
        except TypeError as error:
            raise TypeError("deserialize_cuda_engine(): incompatible function arguments") from error
        try:
            header, onnx = decode(data)
            self._check(header)
            session = Session(header, onnx)
        except Exception as error:  # noqa: BLE001 - of ONNX Runtime too: a damaged graph has no engine
            self._world.say("ERROR", f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization ({error})")
            return None
        if self._world.device.config.fault("deserialize", session.nodes) == "none":
            self._world.say("ERROR", "IRuntime::deserializeCudaEngine: Error Code 1: it was told to fail")
            return None
        engine = self._world.make(ICudaEngine)
        engine._start(session, data)
        return engine

    def _check(self, header: Header) -> None:
        release, here = self._world.release, self._world.device.config
        if not here.visible:
            raise PlanError(_NO_GPU)
        if (header.module, header.release) != (release.module, release.version):
            raise PlanError(
                f"The engine plan file is not compatible with this version of TensorRT, expecting library version "
                f"{release.version} got {header.release}, please rebuild."
            )
        if not release.rtx and header.gpu != here.gpu:
            raise PlanError(f"The engine was made on '{header.gpu}', this is '{here.gpu}'")
        portable = "8.0+" in header.architectures and float(here.compute_capability) >= 8.0
        if here.compute_capability not in header.architectures and not portable:
            made = ", ".join(header.architectures)
            raise PlanError(f"Target GPU SM {here.compute_capability} is not among those of this engine: {made}")


class ICudaEngine(Native):
    """Immutable: what a plan holds."""

    _session: Session
    _data: bytes
    _layers: tuple[Layer, ...]
    _tensors: dict[str, Tensor]

    def _start(self, session: Session, data: bytes) -> None:
        self._session, self._data = session, data
        fault = self._world.device.config.fault("precision", session.nodes)
        self._layers = Layers(session.model, session.header, single=fault == "fp32").make()
        self._tensors = {tensor.name: tensor for tensor in (*session.inputs, *session.outputs)}

    @property
    def name(self) -> str:
        """Of the graph."""
        return str(self._session.model.graph.name)

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        """Layers, of which the inspector tells more."""
        return len(self._layers)

    @property
    def num_optimization_profiles(self) -> int:
        """There is always one."""
        return 1

    @property
    def profiling_verbosity(self) -> Any:
        """As the build had it."""
        return self._world.member("ProfilingVerbosity", self._session.header.verbosity)

    @property
    def device_memory_size(self) -> int:
        """Bytes an execution context takes on the device: of all that passes from one layer to another."""
        return self._memory()

    @property
    def device_memory_size_v2(self) -> int:
        """The same, in the name it has from 10.0 on."""
        return self._memory()

    def get_tensor_name(self, index: int) -> str | None:
        """Inputs first."""
        names = list(self._tensors)
        if not 0 <= index < len(names):
            self._unknown(f"tensor {index}")
            return None
        return names[index]

    def get_tensor_mode(self, name: str) -> Any:
        """INPUT, OUTPUT, or NONE for a name it does not know."""
        if name not in self._tensors:
            return self._world.member("TensorIOMode", "NONE")
        mode = "INPUT" if self._tensors[name] in self._session.inputs else "OUTPUT"
        return self._world.member("TensorIOMode", mode)

    def get_tensor_shape(self, name: str) -> Dims:
        """As in the network: a free axis is -1."""
        if name not in self._tensors:
            self._unknown(name)
            return Dims((-1,))
        return Dims(self._tensors[name].dims)

    def get_tensor_dtype(self, name: str) -> Any:
        """Element type."""
        tensor = self._tensors.get(name)
        return self._world.member("DataType", type_name(tensor) if tensor is not None else "FLOAT")

    def get_tensor_location(self, name: str) -> Any:  # noqa: ARG002 - none of these networks has shape tensors
        """All are on the device."""
        return self._world.member("TensorLocation", "DEVICE")

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """Least, usual and largest shape of an input."""
        if profile_index != 0 or all(tensor.name != name for tensor in self._session.inputs):
            self._unknown(f"{name} in profile {profile_index}")
            return []
        return [Dims(shape) for shape in self._range(name)]

    def create_execution_context(self, *_: object) -> IExecutionContext | None:
        """A context, None where the device has too little memory for another one."""
        self._world.call("ICudaEngine.create_execution_context")
        device = self._world.device
        told = device.config.fault("context", self._session.nodes) == "none"
        if told or self._memory() > device.free_bytes():
            self._world.say("ERROR", f"ICudaEngine: Error Code 2: OutOfMemory (asked for {self._memory()} bytes)")
            return None
        context = self._world.make(IExecutionContext)
        context._start(self)
        return context

    def create_engine_inspector(self) -> EngineInspector:
        """Tells about layers."""
        inspector = self._world.make(EngineInspector)
        inspector._engine = self
        return inspector

    def serialize(self) -> IHostMemory:
        """The plan again."""
        return host_memory(self._world, self._data)

    def _memory(self) -> int:
        passed = {tensor.name: tensor for layer in self._layers for tensor in layer.outputs}
        return sum(4 * int(np.prod([max(size, 1) for size in tensor.dims])) for tensor in passed.values())

    def _range(self, name: str) -> tuple[Shape, Shape, Shape]:
        dims = self._tensors[name].dims
        return self._session.header.ranges.get(name, (dims, dims, dims))

    def _unknown(self, what: str) -> None:
        self._world.say("ERROR", f"ICudaEngine: Error Code 3: API Usage Error (there is no {what})")


class EngineInspector(Native):
    """What layers an engine has. `execution_context`: whose shapes are told where those of the engine are free."""

    _engine: ICudaEngine
    execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 - the real name
        """All layers, and the names of inputs and outputs."""
        self._world.check(format, "LayerInformationFormat")
        write = engine_json if format.name == "JSON" else engine_lines
        engine = self._engine
        return write(engine._layers, list(engine._tensors), engine._session.header)

    def get_layer_information(self, layer_index: int, format: Any) -> str:  # noqa: A002 - the real name
        """One layer."""
        self._world.check(format, "LayerInformationFormat")
        layer, header = self._engine._layers[layer_index], self._engine._session.header
        if format.name == "JSON":
            old = self._world.release.major < 11
            return json.dumps(layer_json(layer, old=old, detailed=header.verbosity == "DETAILED"))
        return layer_line(layer) if header.verbosity == "DETAILED" else layer.name


class IExecutionContext(Native):
    """Executes an engine: shapes and addresses first, then work on a stream."""

    _engine: ICudaEngine
    _shapes: dict[str, Shape]
    _addresses: dict[str, int]
    _warm: bool

    def _start(self, engine: ICudaEngine) -> None:
        self._engine, self._addresses, self._warm = engine, {}, False
        self._shapes = {
            tensor.name: tensor.dims for tensor in engine._session.inputs if min(tensor.dims, default=0) >= 0
        }

    @property
    def engine(self) -> ICudaEngine:
        """Whose it is."""
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        """The only one."""
        return 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """True for the only one there is."""
        self._world.device.stream(int(stream_handle))
        return profile_index == 0 or self._refuse(f"there is no profile {profile_index}")

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """False for a shape outside the profile."""
        if all(tensor.name != name for tensor in self._engine._session.inputs):
            return self._refuse(f"there is no input {name}")
        least, _, most = self._engine._range(name)
        wanted = tuple(int(size) for size in shape)
        if len(wanted) != len(least) or not all(a <= n <= b for a, n, b in zip(least, wanted, most, strict=True)):
            return self._refuse(f"shape {list(wanted)} of {name} is not from {list(least)} to {list(most)}")
        self._warm = self._warm and self._shapes.get(name) == wanted
        self._shapes[name] = wanted
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where the device finds an input, or puts an output; it is looked at when work runs."""
        if name not in self._engine._tensors:
            return self._refuse(f"there is no tensor {name}")
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        """As set, 0 before that."""
        return self._addresses.get(name, 0)

    def get_tensor_shape(self, name: str) -> Dims:
        """With all shapes of inputs set there is no -1 in it."""
        tensor = self._engine._tensors.get(name)
        if tensor is None:
            self._engine._unknown(name)
            return Dims((-1,))
        return Dims(self._shapes.get(name) or self._inferred(tensor))

    def infer_shapes(self) -> list[str]:
        """Names of inputs whose shapes are still to be set."""
        return [tensor.name for tensor in self._engine._session.inputs if tensor.name not in self._shapes]

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueues one execution; False, with an error in the log, where something was not set."""
        self._world.call("IExecutionContext.execute_async_v3")
        device, session = self._world.device, self._engine._session
        if device.config.fault("execute", session.nodes) is False:
            return self._refuse("it was told to fail")
        missing = self.infer_shapes() + [name for name in self._engine._tensors if not self._addresses.get(name)]
        if missing:
            return self._refuse(f"no address or shape is set for {missing[0]}")
        capture = device.stream(int(stream_handle)).capture
        if capture is not None and not self._warm:
            # The first execution after a change of shapes does what can't be part of a graph.
            capture.broken = True
            return self._refuse("operation not permitted when stream is capturing: run once before it is captured")
        if not stream_handle:
            self._world.say("WARNING", "The default stream in enqueueV3() makes for additional synchronisation.")
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        mapped = sum(device.memory.is_mapped(address) for address in addresses.values())
        cost_us = device.config.cost_us(session.nodes) + mapped * device.config.mapped_us
        device.enqueue(int(stream_handle), lambda: self._execute(addresses, shapes), cost_us)
        self._warm = True
        return True

    def _execute(self, addresses: dict[str, int], shapes: dict[str, Shape]) -> None:
        device, session = self._world.device, self._engine._session
        feeds = {name: self._on_device(addresses[name], self._engine._tensors[name], shapes[name]) for name in shapes}
        offset = float(device.config.fault("logits", session.nodes) or 0.0)
        for name, value in session.run(feeds, offset).items():
            self._on_device(addresses[name], self._engine._tensors[name], value.shape)[...] = value

    def _on_device(self, address: int, tensor: Tensor, shape: Shape) -> NDArray[Any]:
        """A view of device memory; raises FaultError where it is not all there."""
        dtype = np.dtype(NUMPY[type_name(tensor)])
        nbytes = dtype.itemsize * int(np.prod(shape))
        return np.frombuffer(self._world.device.memory.on_device(address, nbytes), dtype).reshape(shape)

    def _inferred(self, tensor: Tensor) -> Shape:
        """An output's shape. Its free axis is the batch, which is the first of the input too."""
        batch = next(iter(self._shapes.values()), (-1,))[0]
        return tuple(batch if size < 0 else size for size in tensor.dims)

    def _refuse(self, text: str) -> bool:
        self._world.say("ERROR", f"IExecutionContext: Error Code 3: API Usage Error ({text})")
        return False
