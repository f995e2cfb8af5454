"""How far training had come at an evaluation, and at which one a run reached its target, as MLPerf's rcp_checker reads it.

A benchmark's unit is in its rules; logs in another unit keep theirs, so that no epoch is shown as a sample.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchmark.log_summary import Evaluation, LogSummary
from benchmark.mllog import TRAIN_SAMPLES
from benchmark.rounds.rules_by_round import EPOCHS, SAMPLES, UNIT_KEYS, Rules
from common.values import parse_number

_MAX_EPOCHS = 20_000
"""No run of a published round has more epochs (10,000 at most); logs with larger numbers in `epoch_num` count samples
(bert, unet3d from v3.1, openfold) or tokens (gpt3)."""


class Progress(NamedTuple):
    """A position in training: `value` in `unit` (`epochs`, `samples`, `steps` or `tokens`)."""

    value: float
    unit: str


def progress_at(metadata: Mapping[str, Any], rules: Rules) -> Progress | None:
    """The progress in an evaluation's metadata, in the unit of the rules if it is logged, else in the one that is."""
    for unit, key in _keys(rules.unit):
        value = parse_number(metadata.get(key))
        if value is None:
            continue
        if unit == EPOCHS and value > _MAX_EPOCHS:
            return Progress(value, SAMPLES if rules.unit == EPOCHS else rules.unit)
        return Progress(value, unit)
    return None


@functools.cache
def _keys(first: str) -> list[tuple[str, str]]:
    """The units with their keys in metadata, `first` first."""
    return sorted(UNIT_KEYS.items(), key=lambda each: each[0] != first)


def progress_at_stop(log: LogSummary, rules: Rules) -> Progress | None:
    """The progress at the last evaluation before run_stop.

    Some logs of bert have the samples trained only as `train_samples` after that evaluation (before it, they are the
    samples to train), where rcp_checker reads it on request (`bert_train_samples`).
    """
    if not log.evaluations:
        return None
    last = log.evaluations[-1].event
    progress, trained = progress_at(last.metadata, rules), log.first.get(TRAIN_SAMPLES)
    if rules.trained_samples and trained is not None and trained.line > last.line:
        samples = parse_number(trained.value)
        if samples is not None and (progress is None or progress.unit == EPOCHS):
            return Progress(samples, SAMPLES)
    return progress


def progress_to_target(log: LogSummary, rules: Rules) -> Progress | None:
    """The progress at which a successful run reached its target.

    That is the last evaluation before run_stop. Where the rules name metrics, which are logged later than the
    evaluation they belong to and apart from each other, it is the first evaluation at which all of them pass.
    """
    if not rules.metrics:
        return progress_at_stop(log, rules)
    return min(_passing(log.evaluations, rules), default=None)


def _passing(evaluations: Iterable[Evaluation], rules: Rules) -> list[Progress]:
    """The progress of all evaluations at which all metrics of the rules pass."""
    metrics_at: dict[Progress, dict[str, float]] = {}
    for each in evaluations:
        if (progress := progress_at(each.event.metadata, rules)) is not None:
            metrics_at.setdefault(progress, {}).update(each.metrics)
    return [
        progress
        for progress, found in metrics_at.items()
        if all(
            name in found and (found[name] <= limit if maximum else found[name] >= limit)
            for name, limit, maximum in rules.metrics
        )
    ]
