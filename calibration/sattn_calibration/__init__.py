"""The calibration stage: integer ranges from real windows. Stands on the core, beside export and runtime.

Nothing is calibrated yet in this version; models run in FP32.
"""
