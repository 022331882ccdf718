"""What a TensorRT-RTX answers, call by call, as JSON on stdout: run once with the real module and once with the fake.

Run as a script, in a process of its own; argv: a folder with the graphs. It uses nothing but the module.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SHAPE = (1, 32, 3)
GOOD, LATER, MANY = ((batch, *SHAPE) for batch in (1, 2, 4))
Case = tuple[str, Callable[[], Any]]


def told(call: Callable[[], Any]) -> Any:
    """An answer that can be compared: a plain value, the kind of an object, or the kind of an error."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            answer = call()
    except Exception as error:  # noqa: BLE001 - which one is the answer
        return f"raises {type(error).__name__}"
    said = [warning.category.__name__ for warning in caught]
    return [plain(answer), *said] if said else plain(answer)


def plain(answer: Any) -> Any:
    if answer is None or isinstance(answer, (bool, int, str)):
        return answer
    if isinstance(answer, (list, tuple)) or type(answer).__name__ == "Dims":
        return [plain(each) for each in answer]
    return getattr(answer, "name", None) or type(answer).__name__


class Behaviour:
    """One process with the module, and what its logger is told."""

    def __init__(self, folder: Path) -> None:
        import tensorrt_rtx as trt

        self.trt, self.folder = trt, folder
        self.errors: list[str] = []
        errors = self.errors

        class Log(trt.ILogger):  # type: ignore[misc]
            def log(self, severity: Any, msg: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    errors.append(msg)

        self.log = Log()
        self.builder = trt.Builder(self.log)

    def network(self) -> Any:
        return self.builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def config(self) -> Any:
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(self.trt.ComputeCapability.SM86, 0)
        return config

    def parse(self, name: str) -> Any:
        """What came of parsing a file."""
        network = self.network()
        parser = self.trt.OnnxParser(network, self.log)
        done = parser.parse((self.folder / name).read_bytes())
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        ends = [network.get_input(i) for i in range(network.num_inputs)] if done else []
        ends += [network.get_output(i) for i in range(network.num_outputs)]
        return [
            *(done, network.num_outputs),
            *([error.code().name, error.node_name(), error.node_operator(), error.node()] for error in errors),
            *([end.name, plain(end.shape), end.dtype.name] for end in ends),
        ]

    def build(self, name: str, shapes: Any = None, change: Callable[[Any], Any] | None = None) -> bool:
        """Whether a file builds, with a profile and with a change of the config."""
        network = self.network()
        self.trt.OnnxParser(network, self.log).parse((self.folder / name).read_bytes())
        config = self.config()
        if shapes is not None:
            profile = self.builder.create_optimization_profile()
            profile.set_shape(*shapes)
            config.add_optimization_profile(profile)
        if change is not None:
            change(config)
        return self.builder.build_serialized_network(network, config) is not None

    def add(self, *shapes: Any) -> int:
        profile = self.builder.create_optimization_profile()
        profile.set_shape("window", *shapes)
        return int(self.config().add_optimization_profile(profile))

    def cancel(self, config: Any, answer: Any) -> None:
        class Monitor(self.trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                pass

            def step_complete(self, phase_name: str, step: int) -> bool:
                if answer is None:
                    raise RuntimeError("no")
                return bool(answer)

            def phase_finish(self, phase_name: str) -> None:
                pass

        config.progress_monitor = Monitor()

    # ------------------------------------------------------------------ cases

    def cases(self) -> Iterator[Case]:
        yield from self.of_parsing()
        yield from self.of_configs()
        yield from self.of_types()
        yield from self.of_builds()

    def of_parsing(self) -> Iterator[Case]:
        for path in sorted(self.folder.glob("*.onnx")):
            yield f"parse {path.stem}", lambda name=path.name: self.parse(name)
        yield "no output", lambda: self.network().get_output(0)
        yield "no error", lambda: self.trt.OnnxParser(self.network(), self.log).get_error(0)
        yield "unknown network flag", lambda: self.builder.create_network(1 << 7)

    def of_configs(self) -> Iterator[Case]:
        config, trt = self.config(), self.trt
        yield "tf32", lambda: config.get_flag(trt.BuilderFlag.TF32)
        yield "flags", lambda: config.flags
        yield "verbosity", lambda: config.profiling_verbosity
        yield "level", lambda: config.builder_optimization_level
        yield "no monitor", lambda: config.progress_monitor
        yield "flag by number", lambda: config.set_flag(1)
        yield "unknown attribute", lambda: setattr(config, "foo", 1)
        yield "pool below 0", lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, -1)
        yield "set pool", lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 2**21)
        yield "get pool", lambda: config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        yield "architecture", lambda: config.get_compute_capability(0)
        yield "architecture beyond", lambda: config.set_compute_capability(trt.ComputeCapability.SM86, 1)
        yield "timing cache", lambda: config.create_timing_cache(b"")
        yield "timing cache of garbage", lambda: config.create_timing_cache(b"garbage")
        yield "no timing cache", lambda: config.get_timing_cache()
        yield "set timing cache", lambda: config.set_timing_cache(config.create_timing_cache(b""), False)
        yield "get timing cache", lambda: config.get_timing_cache()
        yield "profile", lambda: self.add(GOOD, LATER, MANY)
        yield "profile in no order", lambda: self.add(LATER, GOOD, MANY)
        yield "profile of two ranks", lambda: self.add(GOOD, GOOD[:3], GOOD)
        yield "no shape", lambda: self.builder.create_optimization_profile().get_shape("window")

    def of_types(self) -> Iterator[Case]:
        trt = self.trt
        yield "version", lambda: trt.__version__
        yield "no constructor", lambda: trt.IBuilderConfig()
        yield "no logger", lambda: trt.Builder(None)
        yield "a flag is no int", lambda: trt.BuilderFlag.TF32 == 6
        yield "a flag as int", lambda: int(trt.BuilderFlag.TF32)
        yield "a flag shifts nothing", lambda: 1 << trt.BuilderFlag.TF32
        yield (
            "names of flags",
            lambda: [str(trt.BuilderFlag.TF32), repr(trt.BuilderFlag.TF32), trt.BuilderFlag.TF32.name],
        )
        yield "dims", lambda: [trt.Dims((1, 2)) == (1, 2), len(trt.Dims((1, 2))), isinstance(trt.Dims((1,)), tuple)]
        yield "dims as text", lambda: str(trt.Dims((1, 2)))
        yield "size of half", lambda: trt.DataType.HALF.itemsize
        yield "nptype", lambda: trt.nptype(trt.DataType.HALF).__name__
        yield "volume", lambda: trt.volume((2, 3))
        yield (
            "severities",
            lambda: [int(getattr(trt.Logger, n)) for n in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")],
        )
        yield "severity of a logger", lambda: trt.Logger().min_severity
        yield "empty engine", lambda: trt.Runtime(self.log).deserialize_cuda_engine(b"")
        yield "no engine", lambda: trt.Runtime(self.log).deserialize_cuda_engine(b"123" * 50)
        yield "engine None", lambda: trt.Runtime(self.log).deserialize_cuda_engine(None)

    def of_builds(self) -> Iterator[Case]:
        """Those that end well come first: a build that failed spoils the next."""
        pool = self.trt.MemoryPoolType.WORKSPACE
        yield "build", lambda: self.build("good.onnx")
        yield "build ranged", lambda: self.build("free.onnx", ("window", GOOD, LATER, MANY))
        yield "build with a monitor", lambda: self.build("good.onnx", change=lambda c: self.cancel(c, True))
        yield "build garbage", lambda: self.build("text.onnx")
        yield "build without a profile", lambda: self.build("free.onnx")
        yield "build of another input", lambda: self.build("free.onnx", ("other", GOOD, LATER, MANY))
        yield "build of another shape", lambda: self.build("free.onnx", ("window", *[(1, 1, 32, 9)] * 3))
        yield "build of no fixed shape", lambda: self.build("good.onnx", ("window", GOOD, LATER, MANY))
        yield (
            "build in too little",
            lambda: self.build("good.onnx", change=lambda c: c.set_memory_pool_limit(pool, 1024)),
        )
        yield "build cancelled", lambda: self.build("good.onnx", change=lambda c: self.cancel(c, False))
        yield "build interrupted", lambda: self.build("good.onnx", change=lambda c: self.cancel(c, None))

    def run(self) -> dict[str, Any]:
        """Every answer, and whether an error was logged with it."""
        out = {}
        for name, call in self.cases():
            self.errors.clear()
            answer = told(call)
            out[name] = [answer, bool(self.errors)]
        return out


if __name__ == "__main__":
    json.dump(Behaviour(Path(sys.argv[1])).run(), sys.stdout)
