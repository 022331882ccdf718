"""The fake of the CUDA runtime."""

from sattn_runtime.testing.fake_cuda_runtime import *  # noqa: F403
