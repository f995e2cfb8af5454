"""The values that options of the inference commands can take. Does not import torch."""

from __future__ import annotations

AUTO = "auto"
ENGINES = ("torch", "onnx")
ENGINE_CHOICES = (AUTO, *ENGINES)
PRECISIONS = ("fp32", "tf32", "bf16")
OFFLINE_BATCH = 32
"""Default number of utterances in a batch of the offline scenario."""
