"""What turns features into log-probabilities: PyTorch on a CPU or GPU, or ONNX Runtime on a CPU (or GPU, where it can).

Both take a whole batch on the device and give the same answer for an utterance alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datasets.errors import UserError

from .inference_network import InferenceNetwork, at_least
from .model import output_frames
from .onnx_file import INPUTS, OUTPUTS
from .trained import Trained, from_metadata

ENGINES = ("torch", "onnx")
PRECISIONS = ("fp32", "tf32", "bf16")


class Engine(Protocol):
    """A network ready to run."""

    name: str
    precision: str
    device: torch.device

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, bins, longest) features with (batch,) valid frames each, to (output frames, batch, labels) float32.

        Also returns the (batch,) valid output frames: 0 for an utterance that is too short for one.
        """
        ...

    def wait(self) -> None:
        """Return once everything that was asked of the device is done."""
        ...


class TorchEngine:
    """PyTorch, with the training's own network on a GPU and its form for inference on a CPU."""

    name = "torch"

    def __init__(self, trained: Trained, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        # PyTorch lets convolutions and GRUs use TF32 unless it is told not to.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        network = trained.network().to(device)
        self._run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
        self._run = network if device.type == "cuda" else InferenceNetwork(network).eval()

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """See Engine."""
        with torch.inference_mode(), self._autocast():
            values, _ = self._run(*at_least(features, frames))
        values = values.float()
        if self.device.type == "cuda":
            values = functional.log_softmax(values, 2)
        return values, output_frames(frames).clamp_min(0)

    def wait(self) -> None:
        """See Engine."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


class OnnxEngine:
    """ONNX Runtime over a file that `reference_model.export_onnx` wrote."""

    name = "onnx"

    def __init__(self, path: Path, device: torch.device, threads: int | None = None) -> None:
        import onnxruntime

        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise UserError(
                "this ONNX Runtime has no support for GPUs",
                where="--device cuda",
                remedy="use --device cpu, or install onnxruntime-gpu instead of onnxruntime",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        self.device = device
        self._session = open_session(path, options, provider)
        self.precision = self._session.get_modelmeta().custom_metadata_map.get("weights", "fp32")

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """See Engine."""
        values, longest = at_least(features, frames)
        given = dict(zip(INPUTS, (values.cpu().numpy(), longest.cpu().numpy()), strict=True))
        found = np.asarray(self._session.run(list(OUTPUTS[:1]), given)[0])
        return torch.from_numpy(found).transpose(0, 1), output_frames(frames).clamp_min(0).cpu()

    def wait(self) -> None:
        """Nothing: each call waits."""


def open_session(path: Path, options: object = None, provider: str = "CPUExecutionProvider"):  # noqa: ANN201
    """An ONNX Runtime session; UserError where the file is missing or no ONNX file."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        Fail,
        InvalidGraph,
        InvalidProtobuf,
        NoSuchFile,
        NotImplemented,
    )

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except NoSuchFile:
        raise UserError("no such ONNX file", where=path) from None
    except (InvalidProtobuf, InvalidGraph, Fail, NotImplemented) as error:
        raise UserError(f"ONNX Runtime cannot run it ({str(error).splitlines()[0]})", where=path) from None


def trained_from_onnx(path: Path) -> Trained:
    """What an ONNX file of ours says of itself, without weights."""
    about = open_session(path).get_modelmeta().custom_metadata_map
    return from_metadata(about, {}, path)
