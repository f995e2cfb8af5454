"""Section `ceilings` of `python -m benches gpu`: the card's peak rates, for MFU and roofline fraction in the other sections."""

from __future__ import annotations

import functools

import torch

from benches.gpu.shared import Bench
from benches.gpu.table import rows_of
from benchmark.machine.roofline import MEASURED, Ceilings
from reference_model.runtime import set_precision


def ceilings(bench: Bench) -> None:
    """Dense products of random matrices in each precision, and a memory copy."""
    size = _size(bench)
    for precision in bench.precisions:
        flops_per_s = _products(bench, precision)
        name = f"product of {size} x {size}, {precision}"
        bench.row("ceilings", name, precision=precision, tflops=flops_per_s / 1e12)
    bench.row("ceilings", "copy, read and written", tb_per_s=_copy(bench) / 1e12)


def ceilings_of(bench: Bench) -> Ceilings | None:
    """The card's peak rates: from this section, else the known ones of the card, else measured now; None if that fails."""
    found = [row for row in rows_of(bench.journal) if row["section"] == "ceilings"]
    rates = {row["precision"]: row["tflops"] * 1e12 for row in found if "tflops" in row}
    copied = [row["tb_per_s"] * 1e12 for row in found if "tb_per_s" in row]
    if copied:
        return Ceilings(rates, copied[0])
    known = MEASURED.get(torch.cuda.get_device_name(bench.device)) if bench.on_gpu else None
    return known or _measured_now(bench)


@functools.cache
def _measured_now(bench: Bench) -> Ceilings | None:
    """Measured once per process, in a few seconds."""
    try:
        return Ceilings({each: _products(bench, each) for each in bench.precisions}, _copy(bench))
    except RuntimeError:
        # The caller's own figures must not be lost because a fraction cannot be computed.
        return None


def _size(bench: Bench) -> int:
    return 256 if bench.tiny else 8192


def _products(bench: Bench, precision: str) -> float:
    """FLOP/s of a product of two square matrices; leaves `precision` set."""
    set_precision(precision)
    size = _size(bench)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=bench.device, dtype=kind) for _ in range(2))
    return 2 * size**3 * 5 / bench.seconds(lambda: [a @ b for _ in range(5)])


def _copy(bench: Bench) -> float:
    """Bytes/s, read and written, of a copy of 4 GB."""
    source = torch.randn((1 << 20) if bench.tiny else (1 << 30), device=bench.device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / bench.seconds(lambda: target.copy_(source))
