"""The steps of the pipeline: one folder a step, and the few modules that steps share."""

__version__ = "0.1.0"
