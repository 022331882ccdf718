"""The fake TensorRT under the real one's name; the release is in SATTN_FAKE_DEVICE."""

from sattn_runtime.testing.fake_tensorrt import namespace

globals().update(namespace("tensorrt"))
