"""The optimizer of a variant, and its learning rate at each step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from benchmark.params import OptimizerParams


def build_optimizer(params: OptimizerParams, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD (with Nesterov momentum if configured) or AdamW over `parameters`, in PyTorch's fused form."""
    weights = list(parameters)
    if params.name == "sgd":
        optimizer = torch.optim.SGD(
            weights,
            lr=params.learning_rate,
            momentum=params.momentum,
            nesterov=params.nesterov,
            weight_decay=params.weight_decay,
            fused=True,
        )
        # PyTorch allocates the momentum in the first step, and leaves it uninitialized if that step is skipped because
        # its loss is not finite: the next step would apply arbitrary memory. Starting from zeros gives the same first
        # step.
        if params.momentum:
            for weight in weights:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return optimizer
    return torch.optim.AdamW(
        weights,
        lr=params.learning_rate,
        betas=(params.beta1, params.beta2),
        eps=params.epsilon,
        weight_decay=params.weight_decay,
        fused=True,
    )


def learning_rate(params: OptimizerParams, epoch: int, step: int, last_step: int) -> float:
    """The learning rate at `step` (from 0 over the whole run) in `epoch` (from 1); `last_step` ends the schedule.

    `anneal`: base / anneal ** (epoch - 1), as in the reference. `warmup_linear`: rises to the base over `warmup_steps`,
    then decays linearly to `final_share` of the base at `last_step`.
    """
    if params.schedule == "anneal":
        return params.learning_rate / params.anneal ** (epoch - 1)
    if step < params.warmup_steps:
        return params.learning_rate * (step + 1) / params.warmup_steps
    done = (step - params.warmup_steps) / max(1, last_step - params.warmup_steps)
    return params.learning_rate * (1 - (1 - params.final_share) * min(1.0, done))


def match_weight_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give each weight's optimizer state the weight's memory layout, as the fused optimizers require.

    A checkpoint may have been written by a run with another layout.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
