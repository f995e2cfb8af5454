"""The engine that runs a given file: a checkpoint of any known format, or an ONNX file of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from datasets.errors import UserError

from .checkpoint import load_trained
from .engines import Engine, OnnxEngine, TorchEngine, trained_from_onnx
from .export_onnx import export
from .trained import Trained


@dataclass(frozen=True)
class Opened:
    """An engine, and what it runs (without weights where ONNX Runtime has them)."""

    engine: Engine
    trained: Trained


def open_engine(
    path: Path, engine: str | None, device: torch.device, precision: str | None = None, threads: int | None = None
) -> Opened:
    """The engine for a file: ONNX Runtime for `.onnx`, PyTorch for any other unless `engine` says `onnx`.

    A checkpoint that ONNX Runtime is to run is exported first, beside nothing of the user's. `precision` None is the one that
    training evaluated with (on a CPU TF32 does not exist: fp32). `threads` None leaves both engines their defaults.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    is_onnx = path.suffix == ".onnx"
    if is_onnx and engine == "torch":
        raise UserError(
            "PyTorch cannot run an ONNX file", where=path, remedy="give the checkpoint, or use --engine onnx"
        )
    if not is_onnx and engine != "onnx":
        trained = load_trained(path)
        chosen = precision or trained.precision
        if chosen == "tf32" and device.type == "cpu":
            chosen = "fp32"
        return Opened(TorchEngine(trained, device, chosen), trained)
    if precision not in (None, "fp32"):
        raise UserError("ONNX files run in fp32", where=f"--precision {precision}", remedy="leave --precision away")
    if is_onnx:
        return Opened(OnnxEngine(path, device, threads), trained_from_onnx(path))
    trained = load_trained(path)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export(trained, file)
        return Opened(OnnxEngine(file, device, threads), trained)
