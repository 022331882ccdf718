"""The calibration stage: integer ranges from real windows. Stands on the core, beside export and runtime.

`pipeline.calibrate` does what `sattn-calibrate` does.
"""
