"""Chooses and opens the engine for a file: a checkpoint of any known format, or an ONNX file of ours."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import UserError
from reference_model.checkpoints.loading import load_trained
from reference_model.checkpoints.trained_network import Trained
from reference_model.inference.engines import Engine, OnnxEngine, TorchEngine, trained_from_onnx
from reference_model.inference.inference_options import AUTO
from reference_model.runtime import SMALL_HIDDEN, available_threads

MAX_GRAPH_BYTES = 1 << 31
"""A protobuf message, and so a graph in memory, must be smaller than this."""


@dataclass(frozen=True)
class Opened:
    """An engine, the reason for its choice, and its network (without weights where ONNX Runtime holds them)."""

    engine: Engine
    reason: str
    trained: Trained


def open_engine(
    path: Path, engine: str, device: torch.device, precision: str | None = None, threads: int | None = None
) -> Opened:
    """Open a file with an engine of options.ENGINE_CHOICES; where it is AUTO, `choose_engine` decides.

    `precision` None means the one that training evaluated with (fp32 instead of TF32 on a CPU, which has none).
    `threads` None means OMP_NUM_THREADS, else all cores for a large network and one for a small network, as in
    training.
    """
    if path.suffix == ".onnx":
        if engine == "torch":
            raise UserError(
                "PyTorch cannot run an ONNX file", where=path, remedy="give the checkpoint, or use --engine onnx"
            )
        _refuse_precision(precision)
        trained = trained_from_onnx(path)
        _use_threads(trained, threads)
        return Opened(OnnxEngine(path, device), "an ONNX file", trained)
    trained = load_trained(path)
    _use_threads(trained, threads)
    chosen = precision or trained.precision
    if chosen == "tf32" and device.type == "cpu":
        chosen = "fp32"
    reason = "asked for"
    if engine == AUTO:
        engine, reason = choose_engine(trained, device, chosen)
    elif engine == "onnx":
        _refuse_precision(precision)
    if engine == "torch":
        return Opened(TorchEngine(trained, device, chosen), reason, trained)
    return Opened(onnx_engine(trained, device), reason, trained)


def choose_engine(trained: Trained, device: torch.device, precision: str) -> tuple[str, str]:
    """The faster engine and why: PyTorch on a GPU and in bf16, ONNX Runtime in fp32 on a CPU.

    ONNX Runtime is faster there (docs/performance.md): its GRU reads packed weights, and splits one step across all
    cores even at batch size 1.
    """
    if device.type != "cpu":
        return "torch", "on a GPU"
    if precision != "fp32":
        return "torch", f"for {precision}"
    # Non-tensors in a hostile file are refused when the network is built.
    weights = [weight for weight in trained.weights.values() if isinstance(weight, torch.Tensor)]
    if sum(weight.numel() * weight.element_size() for weight in weights) >= MAX_GRAPH_BYTES:
        return "torch", "for weights of 2 GiB or more, which no ONNX graph in memory can hold"
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return "torch", "onnx and onnxruntime are not installed"
    return "onnx", "the faster one on a CPU"


def onnx_engine(trained: Trained, device: torch.device) -> OnnxEngine:
    """ONNX Runtime with a graph built in memory."""
    from reference_model.inference.onnx_graph import model_of

    return OnnxEngine(model_of(trained).SerializeToString(), device)


def _refuse_precision(precision: str | None) -> None:
    if precision not in (None, "fp32"):
        raise UserError("ONNX Runtime runs in fp32", where=f"--precision {precision}", remedy="omit --precision")


def _use_threads(trained: Trained, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ and trained.model.rnn_hidden <= SMALL_HIDDEN:
        # A small network's operations take less time than waiting for a second thread.
        torch.set_num_threads(1)
    else:
        torch.set_num_threads(available_threads())
