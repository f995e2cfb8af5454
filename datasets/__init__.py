"""Datasets: download, synthesis, import, manifests, packed audio and checksums. Does not import torch."""
