"""The engine that runs a given file: a checkpoint of any known format, or an ONNX file of ours."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import UserError
from reference_model.checkpoint import load_trained
from reference_model.checkpoints.trained_network import Trained
from reference_model.inference.engines import ENGINES, Engine, OnnxEngine, TorchEngine, trained_from_onnx
from reference_model.process import usual_threads
from reference_model.train import SMALL_HIDDEN

AUTO = "auto"
CHOICES = (AUTO, *ENGINES)
LARGEST_GRAPH = 1 << 31
"""Bytes that a protobuf message, and so a graph in memory, must stay below."""


@dataclass(frozen=True)
class Opened:
    """An engine, why it is that one, and what it runs (without weights where ONNX Runtime has them)."""

    engine: Engine
    reason: str
    trained: Trained


def open_engine(
    path: Path, engine: str, device: torch.device, precision: str | None = None, threads: int | None = None
) -> Opened:
    """The engine for a file, of CHOICES: `choose_engine` decides where it is AUTO.

    `precision` None is the one that training evaluated with (on a CPU TF32 does not exist: fp32). `threads` None leaves all
    cores to a large network, or as many as OMP_NUM_THREADS says; a small network gets one, as in training.
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

    There ONNX Runtime takes less time (docs/performance.md): its GRU reads packed weights, and shares one step among all
    cores also at batch 1.
    """
    if device.type != "cpu":
        return "torch", "on a GPU"
    if precision != "fp32":
        return "torch", f"for {precision}"
    # What a hostile file has in a weight's place is refused where the network is made.
    weights = [weight for weight in trained.weights.values() if isinstance(weight, torch.Tensor)]
    if sum(weight.numel() * weight.element_size() for weight in weights) >= LARGEST_GRAPH:
        return "torch", "for weights of 2 GiB or more, which no ONNX graph in memory can hold"
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return "torch", "onnx and onnxruntime are not installed"
    return "onnx", "the faster one on a CPU"


def onnx_engine(trained: Trained, device: torch.device) -> OnnxEngine:
    """ONNX Runtime over a graph made in memory."""
    from reference_model.inference.onnx_graph import model_of

    return OnnxEngine(model_of(trained).SerializeToString(), device)


def _refuse_precision(precision: str | None) -> None:
    if precision not in (None, "fp32"):
        raise UserError("ONNX Runtime runs in fp32", where=f"--precision {precision}", remedy="leave --precision away")


def _use_threads(trained: Trained, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ and trained.model.rnn_hidden <= SMALL_HIDDEN:
        # A small network's operations are shorter than waiting for a second thread.
        torch.set_num_threads(1)
    else:
        torch.set_num_threads(usual_threads())
