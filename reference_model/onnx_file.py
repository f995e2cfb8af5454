"""The ONNX file of a network: the names of its inputs and outputs, and how it is written.

`export_onnx` says what they mean, and checks the file before it gets its name.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from .features import Features
from .inference_network import InferenceNetwork
from .trained import Trained

INPUTS, OUTPUTS = ("features", "frames"), ("log_probabilities", "output_frames")
OPSET = 17
TRACED_FRAMES = (90, 61)


class _Exported(nn.Module):
    def __init__(self, network: InferenceNetwork) -> None:
        super().__init__()
        self.inner = network

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        values, lengths = self.inner(features, frames)
        return values.transpose(0, 1), lengths


def write(trained: Trained, path: Path) -> None:
    """Write the ONNX file, unverified."""
    import onnx

    network = _Exported(InferenceNetwork(trained.network())).eval()
    frames = torch.tensor(TRACED_FRAMES)
    features = torch.zeros(len(TRACED_FRAMES), Features(trained.features).bins, max(TRACED_FRAMES))
    axes = {INPUTS[0]: {0: "batch", 2: "frames"}, INPUTS[1]: {0: "batch"}}
    axes |= {OUTPUTS[0]: {0: "batch", 1: "output_frames"}, OUTPUTS[1]: {0: "batch"}}
    with warnings.catch_warnings(), torch.no_grad():
        # It warns of what the checks below show to be right: a GRU of another batch size, tensors taken for constants.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (features, frames),
            str(path),
            dynamo=False,  # the newer exporter cannot express a GRU over a dynamic batch and time (PyTorch 2.11)
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, trained.metadata())
    onnx.checker.check_model(model)
    onnx.save(model, path)
