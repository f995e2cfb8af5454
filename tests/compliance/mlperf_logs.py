"""Minimal logs that mlperf_logging accepts, one of each form, and packages made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.mlperf_round import DESCRIPTION

START_MS = 1_700_000_000_000
_RESNET = {
    "global_batch_size": 3264,
    "train_samples": 1281167,
    "eval_samples": 50000,
    "gradient_accumulation_steps": 1,
    "opt_name": "lars",
    "lars_opt_base_learning_rate": 7.2,
    "lars_opt_end_learning_rate": 0.0001,
    "lars_opt_learning_rate_decay_poly_power": 2,
    "lars_opt_learning_rate_decay_steps": 37,
    "lars_epsilon": 0,
    "lars_opt_learning_rate_warmup_epochs": 2,
    "lars_opt_momentum": 0.9,
    "lars_opt_weight_decay": 0.0002,
}
_DEEPCAM = {
    "number_of_nodes": 18,
    "accelerators_per_node": 2,
    "global_batch_size": 144,
    "batchnorm_group_size": 1,
    "gradient_accumulation_frequency": 1,
    "opt_name": "LAMB",
    "opt_lr": 0.004,
    "opt_bias_correction": True,
    "opt_betas": [0.9, 0.999],
    "opt_eps": 1e-06,
    "opt_grad_averaging": True,
    "opt_max_grad_norm": 1.0,
    "scheduler_type": "cosine_annealing",
    "scheduler_t_max": 9000,
    "scheduler_eta_min": 0.0,
    "scheduler_lr_warmup_steps": 0,
    "scheduler_lr_warmup_factor": 1.0,
    "train_samples": 121266,
    "eval_samples": 15158,
}
SETTINGS = {"resnet": _RESNET, "deepcam": _DEEPCAM}
_REACHED = {"resnet": 0.7595, "deepcam": 0.8266}


def mlperf_lines(
    seed: int, benchmark: str = "resnet", *, epochs: float = 35, accuracy: float | None = None, **changes: Any
) -> list[str]:
    """The lines of a successful run of round 4.0 (deepcam: HPC 3.0); `changes` are of values before the training."""
    status, division = changes.pop("status", "success"), changes.pop("division", "closed")
    events: list[tuple[str, Any, dict[str, Any]]] = [
        ("submission_benchmark", benchmark, {}),
        ("submission_org", "OrgA", {}),
        ("submission_platform", "box", {}),
        ("submission_division", division, {}),
        ("submission_status", "onprem", {}),
        ("seed", seed, {}),
        ("cache_clear", True, {}),
        ("init_start", None, {}),
        *((key, value, {}) for key, value in (SETTINGS[benchmark] | changes).items() if benchmark == "deepcam"),
        ("init_stop", None, {}),
        ("run_start", None, {}),
        *((key, value, {}) for key, value in (SETTINGS[benchmark] | changes).items() if benchmark == "resnet"),
        *((key, None, {"epoch_num": epochs}) for key in ("epoch_start", "epoch_stop", "eval_start")),
        ("eval_accuracy", accuracy or _REACHED[benchmark], {"epoch_num": epochs}),
        ("eval_stop", None, {"epoch_num": epochs}),
        ("run_stop", None, {"status": status, "epoch_num": epochs}),
    ]
    return [_line(START_MS + 1000 * place, *event) for place, event in enumerate(events)]


def _line(time_ms: int, key: str, value: Any, metadata: dict[str, Any]) -> str:
    kind = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}.get(key.rpartition("_")[2], "POINT_IN_TIME")
    tree = {"namespace": "", "time_ms": time_ms, "event_type": kind, "key": key, "value": value}
    return f":::MLLOG {json.dumps(tree | {'metadata': {'file': 'train.py', 'lineno': 1} | metadata})}"


def v06_lines(*, finished: bool = True) -> list[str]:
    """The lines of a resnet run of round 0.6, in its form; without run_stop, unless it is finished."""
    head = {
        "submission_benchmark": "resnet",
        "submission_org": "OrgA",
        "submission_division": "closed",
        "submission_status": "onprem",
        "submission_platform": "box",
        "submission_entry": "x",
        "submission_poc_name": "x",
        "cache_clear": True,
        "init_start": None,
        "model_bn_span": 208,
        "init_stop": None,
        "run_start": None,
        "opt_base_learning_rate": 5.0,
        "opt_learning_rate_warmup_epochs": 5,
        "lars_opt_learning_rate_decay_steps": 51590,
        "lars_opt_learning_rate_decay_poly_power": 2,
        "opt_name": "lars",
        "lars_epsilon": 0,
        "lars_opt_weight_decay": 0.0002,
        "global_batch_size": 1664,
    }
    events: list[tuple[str, Any, dict[str, Any]]] = [(key, value, {}) for key, value in head.items()]
    events += [
        ("block_start", None, {"first_epoch_num": 1, "epoch_count": 4}),
        ("epoch_start", None, {"epoch_num": 1}),
        ("epoch_stop", None, {"epoch_num": 1}),
        ("eval_start", None, {"epoch_num": 1}),
        ("eval_stop", None, {"epoch_num": 1}),
        ("eval_accuracy", 0.76, {"epoch_num": 1}),
        ("block_stop", None, {"first_epoch_num": 1}),
        *([("run_stop", None, {"status": "success"})] if finished else []),
        ("train_samples", 1281167, {}),
        ("eval_samples", 50000, {}),
    ]
    return [
        f":::MLL {1560881700 + place}.5 {key}: {json.dumps({'value': value, 'metadata': metadata})}"
        for place, (key, value, metadata) in enumerate(events)
    ]


def v05_lines() -> list[str]:
    """The lines of a resnet run of round 0.5, in its form."""
    events = ["run_start", 'eval_accuracy: {"epoch": 61, "value": 0.75}', "run_stop"]
    return [f":::MLPv0.5.0 resnet {1541635596 + place}.1 (train.py:12) {text}" for place, text in enumerate(events)]


def write_log(path: Path, lines: Sequence[str], end: str = "\n") -> Path:
    """Write a log and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def write_package(
    org: Path,
    logs: Sequence[Sequence[str]],
    benchmark: str = "resnet",
    *,
    kind: str | None = None,
    description: dict[str, Any] | None = None,
) -> Path:
    """Write a submitter's folder with one result, and return the result's folder."""
    folder = org.joinpath("results", "box", *([kind] if kind else []), benchmark)
    folder.mkdir(parents=True)
    for number, lines in enumerate(logs):
        write_log(folder / f"result_{number}.txt", lines)
    (org / "benchmarks" / benchmark).mkdir(parents=True, exist_ok=True)
    (org / "systems").mkdir(exist_ok=True)
    tree = DESCRIPTION | {"submitter": org.name, "system_name": "box"} | (description or {})
    (org / "systems" / "box.json").write_text(json.dumps(tree))
    return folder
