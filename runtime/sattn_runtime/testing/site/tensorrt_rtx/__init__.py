"""The fake TensorRT-RTX under the real one's name."""

from sattn_runtime.testing.fake_tensorrt import namespace

globals().update(namespace("tensorrt_rtx"))
