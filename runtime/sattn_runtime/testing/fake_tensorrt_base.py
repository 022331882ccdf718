"""What all classes of the fake TensorRT stand on: a release, the state of one process, objects that only it makes.

The real module is native: most of its classes have no constructor, its objects take no attributes of ours, what goes
wrong is told to a logger and answered with None or False. `Native` behaves like that. A class is written once, with
every name that any release has; `World.restrict` makes the class of one release out of it.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from sattn_runtime.testing.device import Device, current

if TYPE_CHECKING:
    from sattn_runtime.testing.fake_tensorrt_logger import ILogger

RTX_VERSION = "1.7.1.116"
_T = TypeVar("_T", bound="Native")


@dataclass(frozen=True)
class Release:
    """One release: `tensorrt` 8.6.1 to 11.4, or `tensorrt_rtx`."""

    module: str
    version: str

    @property
    def rtx(self) -> bool:
        """TensorRT-RTX: it compiles for named architectures, and needs no GPU for that."""
        return self.module == "tensorrt_rtx"

    @property
    def major(self) -> int:
        """The generation: 8, 10 or 11. TensorRT-RTX 1.7 is as 11."""
        return 11 if self.rtx else int(self.version.partition(".")[0])


class NativeEnum(enum.Enum):
    """An enumeration as bindings have them: int() gives the value, but a member is no int and equals none."""

    def __int__(self) -> int:
        return int(self.value)

    def __index__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"


@dataclass(eq=False)
class World:
    """One process that has imported one release: its classes, its one logger, and what a failed build leaves behind.

    types: the classes of this release by name. names: of every class, what a file of names grants it, None for no file.
    """

    release: Release
    names: dict[str, list[str]] | None = None
    types: dict[str, type[Any]] = field(default_factory=dict)
    logger: ILogger | None = None
    poisoned: bool = False

    @property
    def device(self) -> Device:
        """The device as SATTN_FAKE_DEVICE has it now."""
        return current()

    def call(self, name: str) -> None:
        """Logs one call for tests to count."""
        self.device.called(name)

    def say(self, severity: str, text: str) -> None:
        """Tells the process's logger, whatever logger the caller was given."""
        if self.logger is not None:
            self.logger.log(getattr(self.types["ILogger"].Severity, severity), text)

    def register(self, logger: object, what: str) -> None:
        """The first logger of the process stays; a second one is told so and never again spoken to."""
        if not isinstance(logger, self.types["ILogger"]):
            raise TypeError(f"__init__(): incompatible constructor arguments: a logger is wanted, got {logger!r}")
        if not getattr(logger, "_started", False):
            raise TypeError("ILogger.__init__() must be called when overriding __init__")
        new = cast("ILogger", logger)
        if self.logger is None:
            self.logger = new
        elif self.logger is not new:
            text = (
                f"The logger passed into create{what} differs from one already registered for an existing builder, "
                "runtime, or refitter; it is ignored."
            )
            new.log(self.types["ILogger"].Severity.WARNING, text)

    def make(self, base: type[_T]) -> _T:
        """An object of this release's version of a class, without calling a constructor."""
        return cast(_T, object.__new__(self.types[base.__name__]))

    def member(self, name: str, member: str) -> Any:
        """A member of an enumeration."""
        return self.types[name][member]

    def restrict(self, bases: Iterable[type[Any]], absent: frozenset[str]) -> None:
        """Makes the classes of this release: without names in `absent` ("Class" or "Class.name"), or not granted."""
        for base in bases:
            name = base.__name__
            if name in absent or (self.names is not None and name not in self.names):
                continue
            parents = tuple(self.types.get(parent.__name__, parent) for parent in base.__bases__)
            body = {key: value for key, value in vars(base).items() if self._has(name, key, absent)}
            self.types[name] = type(name, parents, {**body, "_world": self, "__module__": self.release.module})

    def _has(self, name: str, key: str, absent: frozenset[str]) -> bool:
        if key in ("__dict__", "__weakref__"):
            return False
        granted = key.startswith("_") or self.names is None or key in self.names[name]
        return granted and f"{name}.{key}" not in absent

    def check(self, value: object, name: str) -> None:
        """Raises TypeError where a value is not of a class of this release, as the bindings do."""
        if not isinstance(value, self.types[name]):
            raise TypeError(f"incompatible function arguments: a {name} is wanted, got {value!r}")


class Native:
    """An object of the bindings: made by other objects only, and closed to attributes it does not have."""

    _world: ClassVar[World]

    def __init__(self, *_: object) -> None:
        raise TypeError(f"{self._world.release.module}.{type(self).__name__}: No constructor defined!")

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            kind = f"{self._world.release.module}.{type(self).__name__}"
            raise AttributeError(f"'{kind}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)

    def __enter__(self: _T) -> _T:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Dims:
    """A shape: compares, counts and indexes like a tuple, and is none."""

    MAX_DIMS = 8

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._shape = tuple(int(size) for size in shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: int) -> int:
        return self._shape[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Dims, tuple, list)) and self._shape == tuple(other)

    def __hash__(self) -> int:
        return hash(self._shape)

    def __repr__(self) -> str:
        return repr(self._shape)


class IHostMemory(Native):
    """Bytes of the library: a buffer, without a length or an index of its own."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return ctypes.sizeof(cast("ctypes.Array[ctypes.c_ubyte]", self))

    @property
    def dtype(self) -> Any:
        """INT8, whatever is in it."""
        return self._world.member("DataType", "INT8")


def host_memory(world: World, data: bytes) -> IHostMemory:
    """Bytes as an IHostMemory. Only a native type can be a buffer in Python 3.10, so it is an array of its own size."""
    array = ctypes.c_ubyte * len(data)
    kind = type("IHostMemory", (array, world.types["IHostMemory"]), {"__len__": None, "__getitem__": None})
    return cast(IHostMemory, cast("Any", kind).from_buffer_copy(data))


def print_message(severity: str, text: str) -> None:
    """What the library's own logger does."""
    sys.stderr.write(f"[TRT] [{severity[0]}] {text}\n")
