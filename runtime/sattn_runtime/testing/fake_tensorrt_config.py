"""What a build is asked for: the builder's config, profiles of shapes, and the timing cache."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from sattn_runtime.testing.fake_tensorrt_base import Dims, IHostMemory, Native, World, host_memory
from sattn_runtime.testing.fake_tensorrt_plan import Shape

_MIB = 2**20
_LEVELS = (0, 5)


class IOptimizationProfile(Native):
    """Ranges of shapes, by input."""

    _shapes: dict[str, tuple[Shape, Shape, Shape]]

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        """Nothing is checked before the profile is added."""
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    def get_shape(self, input: str) -> list[Dims]:  # noqa: A002 - the real name
        """Least, usual and largest; [] for an input that has none."""
        if input not in self._shapes:
            self._world.say("ERROR", f"Cannot get dimensions for input: {input}. It is not present in this profile")
            return []
        return [Dims(shape) for shape in self._shapes[input]]

    def _wrong(self) -> list[str]:
        """Inputs whose ranges do not hold min <= opt <= max in every axis."""
        return [name for name, shapes in self._shapes.items() if not _ordered(shapes)]


def _ordered(shapes: tuple[Shape, Shape, Shape]) -> bool:
    same = len({len(shape) for shape in shapes}) == 1
    return same and all(0 <= least <= usual <= most for least, usual, most in zip(*shapes, strict=True))


class _Cached(msgspec.Struct, frozen=True):
    release: str
    gpu: str
    graphs: tuple[str, ...] = ()


class ITimingCache(Native):
    """Graphs that were built before, for one release and GPU."""

    _content: _Cached

    def serialize(self) -> IHostMemory:
        """As bytes."""
        return host_memory(self._world, msgspec.json.encode(self._content))

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Takes over what another one holds."""
        other = input_cache._content
        if not ignore_mismatch and (other.release, other.gpu) != (self._content.release, self._content.gpu):
            return False
        self._content = msgspec.structs.replace(self._content, graphs=self._content.graphs + other.graphs)
        return True

    def reset(self) -> bool:
        """Empties it."""
        self._content = msgspec.structs.replace(self._content, graphs=())
        return True

    def _learn(self, onnx: bytes) -> None:
        """Remembers a graph; a test that counts calls sees whether it was known."""
        digest = sha256(onnx).hexdigest()
        if digest in self._content.graphs:
            self._world.call("ITimingCache:hit")
        else:
            self._world.call("ITimingCache:miss")
            self._content = msgspec.structs.replace(self._content, graphs=(*self._content.graphs, digest))


def _platform(world: World) -> _Cached:
    return _Cached(world.release.version, world.device.config.gpu)


class IBuilderConfig(Native):
    """Made by a builder."""

    _flags: set[str]
    _pools: dict[str, int]
    _verbosity: Any
    _level: int
    _monitor: Any
    _cache: ITimingCache | None
    _profiles: list[IOptimizationProfile]
    _capabilities: list[Any]

    def _start(self) -> None:
        self._flags = {"TF32"}
        # The library's own limit is all the memory there is.
        self._pools = {"WORKSPACE": self._world.device.config.memory_mib * _MIB}
        self._verbosity = self._world.member("ProfilingVerbosity", "LAYER_NAMES_ONLY")
        self._level, self._monitor, self._cache = 3, None, None
        self._profiles, self._capabilities = [], []

    @property
    def flags(self) -> int:
        """As bits."""
        members = self._world.types["BuilderFlag"].__members__
        return sum(1 << int(members[name]) for name in self._flags if name in members)

    def set_flag(self, flag: Any) -> None:
        """Sets one."""
        self._world.check(flag, "BuilderFlag")
        self._world.call(f"IBuilderConfig.set_flag:{flag.name}")
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        """Clears one."""
        self._world.check(flag, "BuilderFlag")
        self._world.call(f"IBuilderConfig.clear_flag:{flag.name}")
        self._flags.discard(flag.name)

    def get_flag(self, flag: Any) -> bool:
        """Whether it is set. TF32 is, until it is cleared."""
        self._world.check(flag, "BuilderFlag")
        return flag.name in self._flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """In bytes."""
        self._world.check(pool, "MemoryPoolType")
        if pool_size < 0:
            raise TypeError("set_memory_pool_limit(): incompatible function arguments: a size below 0")
        self._world.call(f"IBuilderConfig.set_memory_pool_limit:{pool.name}={int(pool_size)}")
        self._pools[pool.name] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        """In bytes."""
        self._world.check(pool, "MemoryPoolType")
        return self._pools.get(pool.name, 0)

    @property
    def profiling_verbosity(self) -> Any:
        """How much of its layers an engine tells."""
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        self._world.check(value, "ProfilingVerbosity")
        self._verbosity = value

    @property
    def builder_optimization_level(self) -> int:
        """0 to 5, anything else is the nearest of them."""
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        self._level = min(max(int(value), _LEVELS[0]), _LEVELS[1])

    @property
    def progress_monitor(self) -> Any:
        """Whom a build tells."""
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, value: Any) -> None:
        if value is not None:
            self._world.check(value, "IProgressMonitor")
        if value is not None and not getattr(value, "_started", False):
            raise TypeError("IProgressMonitor.__init__() must be called when overriding __init__")
        self._monitor = value

    @property
    def num_optimization_profiles(self) -> int:
        """How many were added."""
        return len(self._profiles)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Its index, -1 for one whose ranges are not in order."""
        self._world.check(profile, "IOptimizationProfile")
        wrong = profile._wrong()
        if wrong:
            text = f"Invalid optimization profiles for input tensors {', '.join(wrong)}, please ensure MIN<=OPT<=MAX"
            self._world.say("ERROR", f"IBuilderConfig::addOptimizationProfile: Error Code 4: API Usage Error ({text})")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        """From bytes; an empty one from none, or from what can't be read, with a warning."""
        cache = self._world.make(ITimingCache)
        cache._content = _platform(self._world)
        data = bytes(serialized_timing_cache)
        if data:
            try:
                cache._content = msgspec.json.decode(data, type=_Cached)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                text = "Failed to deserialize timing cache. Returning an empty timing cache."
                self._world.say("WARNING", text)
        return cache

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """False for one of another release or GPU."""
        self._warn_of_no_op()
        self._world.check(cache, "ITimingCache")
        here, content = _platform(self._world), cache._content
        if not ignore_mismatch and (content.release, content.gpu) != (here.release, here.gpu):
            self._world.say("WARNING", "The timing cache was made by another release or on another GPU; not used.")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        """What was set."""
        self._warn_of_no_op()
        return self._cache

    def _warn_of_no_op(self) -> None:
        if self._world.release.rtx:
            warnings.warn("Timing caches do nothing in TensorRT-RTX.", DeprecationWarning, stacklevel=3)

    @property
    def num_compute_capabilities(self) -> int:
        """How many architectures the engine is for; with 0 it is a portable one."""
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, value: int) -> None:
        none = self._world.member("ComputeCapability", "NONE")
        self._capabilities = [none] * int(value)

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        """False where there is no such index."""
        self._world.check(compute_capability, "ComputeCapability")
        if not 0 <= index < len(self._capabilities):
            text = "IBuilderConfig::setComputeCapability: Error Code 3: API Usage Error (index is not in a valid range)"
            self._world.say("ERROR", text)
            return False
        self._capabilities[index] = compute_capability
        return True

    def get_compute_capability(self, index: int) -> Any:
        """One of them."""
        return self._capabilities[index]
