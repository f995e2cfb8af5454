"""Section `smoke` of `python -m benches gpu`: check that every variant trains, before anything is timed."""

from __future__ import annotations

import dataclasses
import time
import traceback
import warnings

import numpy as np
import torch

from benches.gpu.full_step import narrowed
from benches.gpu.shared import Bench
from benches.gpu.table import first_line
from benches.training.train_step import make_batch, make_step
from benchmark.params import Params, load_variant, variant_names
from reference_model.data.augment import mask_uniforms
from reference_model.data.data_loader import Batch
from reference_model.model.gru import gru_dtype
from reference_model.runtime import set_precision
from reference_model.training.step import Readback

CLIPS, CLIP_S, STEPS = 4, 2.0, 3


def smoke(bench: Bench) -> None:
    """Three steps of every variant on four clips of two seconds, in its own precision and in bf16; RuntimeError if one fails.

    The rows contain the dtype of its GRUs and all of PyTorch's warnings.
    """
    failed = []
    for variant in variant_names():
        params = narrowed(bench, load_variant(variant))
        for precision in dict.fromkeys((params.train.precision, "bf16")):
            name = f"{variant}, {precision}"
            train = dataclasses.replace(params.train, precision=precision)
            try:
                bench.row("smoke", name, **_steps(bench, dataclasses.replace(params, train=train)))
            except Exception as error:
                # A failure of one variant does not affect the others.
                traceback.print_exc()
                bench.row("smoke", name, reason=first_line(error))
                failed.append(name)
            bench.free()
    if failed:
        raise RuntimeError(f"training failed: {'; '.join(failed)}")


def _steps(bench: Bench, params: Params) -> dict[str, object]:
    set_precision(params.train.precision)
    batch = with_mask_uniforms(make_batch(CLIPS, CLIP_S)[0], params)
    batch = batch.pin_memory() if bench.on_gpu else batch
    start_s = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # PyTorch issues some warnings only once per process: only the first variant would get them.
        torch.set_warn_always(True)
        try:
            trainer = make_step(params, bench.device)
            found = [Readback(*trainer(batch, 1e-4)).read() for _ in range(STEPS)]
            with trainer.autocast():
                dtype = gru_dtype(bench.device, params.model.rnn_hidden)
        finally:
            torch.set_warn_always(False)
    losses = " ".join(f"{loss / CLIPS:.2f}" for loss, _ in found)
    if not all(finite for _, finite in found):
        raise RuntimeError(f"losses {losses}, or their gradients, are not finite")
    messages = dict.fromkeys(str(each.message).splitlines()[0] for each in caught)
    if bench.on_gpu and params.train.precision == "bf16" and dtype != torch.bfloat16 and supports_bf16_gru():
        raise RuntimeError(f"GRUs run in {dtype}, although this cuDNN and this GPU should support bf16")
    return {
        "losses": losses,
        "gru": str(dtype).removeprefix("torch."),
        "s": time.perf_counter() - start_s,
        "warnings": "; ".join(messages) or None,
    }


def supports_bf16_gru() -> bool:
    """Whether PyTorch should run bf16 GRUs in cuDNN here, according to its source (docs/performance.md)."""
    return torch.cuda.get_device_capability() >= (8, 0) and (torch.backends.cudnn.version() or 0) >= 91300


def with_mask_uniforms(batch: Batch, params: Params) -> Batch:
    """`batch` with the random numbers for SpecAugment's masks, if the variant has any."""
    drawn = [mask_uniforms(params.augment, 1, 1, index) for index in batch.indices]
    return dataclasses.replace(batch, mask_uniforms=torch.from_numpy(np.stack(drawn)))
