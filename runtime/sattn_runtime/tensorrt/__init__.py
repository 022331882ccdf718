"""TensorRT and TensorRT-RTX: engines compiled on the device, kept in the store, run through CUDA.

Nothing of NVIDIA's is imported until an engine is built or opened.
"""
