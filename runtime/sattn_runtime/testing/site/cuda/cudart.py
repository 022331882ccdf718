"""Where the CUDA runtime was bound before cuda-python 12.6; in 13 it is no more."""

from sattn_runtime.testing.device import current
from sattn_runtime.testing.fake_cuda_runtime import *  # noqa: F403

if int(current().config.cuda_python.partition(".")[0]) > 12:  # the last major version that had it
    raise ModuleNotFoundError("No module named 'cuda.cudart'", name="cuda.cudart")
