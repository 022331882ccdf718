"""The fake of pycuda's driver interface; without a driver it can't be loaded, as the real one."""

from sattn_runtime.testing.device import current
from sattn_runtime.testing.fake_pycuda import *  # noqa: F403

if current().config.driver == 0:
    raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")
