"""The values that `--conv-layout` of the trainer can take. Does not import torch."""

from __future__ import annotations

AUTO = "auto"
CHANNELS_FIRST = "channels-first"
CHANNELS_LAST = "channels-last"
CONV_LAYOUTS = (CHANNELS_FIRST, CHANNELS_LAST)
"""In this order, so that `channels_last` (False or True) is the index of its name."""
