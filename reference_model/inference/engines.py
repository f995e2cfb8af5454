"""Inference engines, from features to log-probabilities: PyTorch, and ONNX Runtime (on a GPU only if built for it).

Both take a whole batch on the device, and give the same result for an utterance alone and in any batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.errors import UserError, first_line
from datasets.geometry import FEWEST_FRAMES, output_frames
from reference_model.checkpoints.trained_network import Trained, from_metadata
from reference_model.runtime import set_precision

INPUTS, OUTPUTS = ("features", "frames"), ("log_probabilities", "output_frames")
"""Names in an ONNX file; `export_onnx` documents them."""


class Engine(Protocol):
    """A network that is ready to run."""

    name: str
    precision: str
    device: torch.device

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, bins, longest) features with (batch,) valid frames each, to (output frames, batch, labels) float32.

        Also returns the (batch,) valid output frames: 0 for an utterance that is too short for any.
        """
        ...

    def wait(self) -> None:
        """Block until the device has finished all queued work."""
        ...


class TorchEngine:
    """PyTorch, with the same network as in training."""

    name = "torch"

    def __init__(self, trained: Trained, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        set_precision(precision)
        self._network = trained.network().to(device)

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """See Engine."""
        with torch.inference_mode(), self._autocast():
            values, _ = self._network(*_at_least(features, frames))
        return functional.log_softmax(values.float(), 2), output_frames(frames).clamp_min(0)

    def wait(self) -> None:
        """See Engine."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


class OnnxEngine:
    """ONNX Runtime with a file that `reference_model.export_onnx` wrote, or with such a file's bytes.

    It uses as many threads as PyTorch.
    """

    name = "onnx"

    def __init__(self, file: Path | bytes, device: torch.device) -> None:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

        self._failures = Fail, InvalidArgument, RuntimeException
        self._where = file if isinstance(file, Path) else "the network as ONNX"
        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise UserError(
                "this ONNX Runtime has no GPU support",
                where="--device cuda",
                remedy="use --device cpu, or install onnxruntime-gpu instead of onnxruntime",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.device = device
        self._session = open_session(file, options, provider)
        self.precision = self._session.get_modelmeta().custom_metadata_map.get("weights", "fp32")

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """See Engine."""
        values, longest = _at_least(features, frames)
        given = dict(zip(INPUTS, (values.cpu().numpy(), longest.cpu().numpy()), strict=True))
        try:
            found = np.asarray(self._session.run(list(OUTPUTS[:1]), given)[0])
        except self._failures as error:
            raise UserError(
                f"ONNX Runtime cannot run it ({first_line(error)})",
                where=self._where,
                remedy="export the checkpoint again",
            ) from None
        return torch.from_numpy(found).transpose(0, 1), output_frames(frames).clamp_min(0).cpu()

    def wait(self) -> None:
        """Does nothing: each call is synchronous."""


def _at_least(features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The batch with every utterance padded with zeros to the FEWEST_FRAMES that yield an output frame."""
    if features.shape[2] < FEWEST_FRAMES:
        features = functional.pad(features, (0, FEWEST_FRAMES - features.shape[2]))
    return features, frames.clamp_min(FEWEST_FRAMES)


def open_session(file: Path | bytes, options: object = None, provider: str = "CPUExecutionProvider"):  # noqa: ANN201
    """An ONNX Runtime session; UserError where the file is missing, or is not a network of this benchmark."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
        NoSuchFile,
        NotImplemented,
        RuntimeException,
    )

    where, source = (file, str(file)) if isinstance(file, Path) else ("the network as ONNX", file)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[provider])
    except NoSuchFile:
        raise UserError("no such ONNX file", where=where) from None
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NotImplemented, RuntimeException) as error:
        raise UserError(f"ONNX Runtime cannot run it ({first_line(error)})", where=where) from None
    taken, given = session.get_inputs(), session.get_outputs()
    named = [[value.name for value in values] for values in (taken, given)]
    if named != [list(INPUTS), list(OUTPUTS)] or [len(value.shape) for value in (*taken, *given)] != [3, 1, 3, 1]:
        raise UserError(
            "not an ONNX file of this benchmark: its inputs and outputs differ",
            where=where,
            remedy="give a file that `reference_model.export_onnx` wrote",
        )
    return session


def trained_from_onnx(path: Path) -> Trained:
    """The metadata of an ONNX file of ours, without weights."""
    about = open_session(path).get_modelmeta().custom_metadata_map
    return from_metadata(about, {}, path)
