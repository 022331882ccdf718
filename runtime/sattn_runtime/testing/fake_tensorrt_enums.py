"""Enumerations of the fake TensorRT, by generation: values differ between releases, and so they do here."""

from __future__ import annotations

from typing import Any

import numpy as np

from sattn_runtime.testing.fake_tensorrt_base import NativeEnum, Release, World


def _in_order(words: str) -> dict[str, int]:
    """Members from 0 on; a dash is a value that is left out here."""
    return {word: value for value, word in enumerate(words.split()) if word != "-"}


_BUILDER_FLAG = {
    8: _in_order(
        "FP16 INT8 DEBUG GPU_FALLBACK - REFIT DISABLE_TIMING_CACHE TF32 - - "
        "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO"
    ),
    10: _in_order(
        "FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 - - "
        "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO - - - - - BF16"
    ),
    11: _in_order("- - DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 - - - - DIRECT_IO"),
}
"""By generation; TensorRT-RTX 1.7 is as 11."""
_NETWORK_FLAG = {
    8: _in_order("EXPLICIT_BATCH EXPLICIT_PRECISION"),
    10: _in_order("EXPLICIT_BATCH STRONGLY_TYPED"),
    11: _in_order("STRONGLY_TYPED"),
}
_DATA_TYPE = _in_order("FLOAT HALF INT8 INT32 BOOL UINT8 FP8")
_DATA_TYPE_10 = _in_order("FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4")
_COMMON = {
    "TensorIOMode": _in_order("NONE INPUT OUTPUT"),
    "TensorLocation": _in_order("DEVICE HOST"),
    "LayerInformationFormat": _in_order("ONELINE JSON"),
    "ErrorCode": _in_order(
        "SUCCESS INTERNAL_ERROR MEM_ALLOC_FAILED MODEL_DESERIALIZE_FAILED INVALID_VALUE "
        "INVALID_GRAPH INVALID_NODE UNSUPPORTED_GRAPH UNSUPPORTED_NODE"
    ),
}
_POOLS = _in_order("WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM")
_VERBOSITY = _in_order("LAYER_NAMES_ONLY NONE DETAILED")
_CAPABILITIES = {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM80": 80, "SM86": 86, "SM89": 89, "SM120": 120, "SM121": 121}

NUMPY: dict[str, type[Any]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
}
"""Types with a NumPy counterpart."""


class _DataType(NativeEnum):
    """Element types."""

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(np.dtype(NUMPY[self.name]).itemsize)


def _tables(release: Release) -> dict[str, dict[str, int]]:
    old = release.major == 8
    tables = {
        **_COMMON,
        "BuilderFlag": _BUILDER_FLAG[release.major],
        "NetworkDefinitionCreationFlag": _NETWORK_FLAG[release.major],
        "DataType": _DATA_TYPE if old else _DATA_TYPE_10,
        "MemoryPoolType": _POOLS if old else {**_POOLS, "TACTIC_SHARED_MEMORY": 5},
        "ProfilingVerbosity": {**_VERBOSITY, "DEFAULT": 0, "VERBOSE": 2} if old else _VERBOSITY,
    }
    return {**tables, "ComputeCapability": _CAPABILITIES} if release.rtx else tables


def add_enumerations(world: World) -> None:
    """Puts the enumerations of a release among its types, with no member that a file of names does not grant."""
    for name, members in _tables(world.release).items():
        if world.names is not None:
            granted = world.names.get(name, [])
            members = {member: value for member, value in members.items() if member in granted}
        base: Any = _DataType if name == "DataType" else NativeEnum
        if members:
            world.types[name] = base(name, members, module=world.release.module)
