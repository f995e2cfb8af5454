"""Samples per second of a run, in total over its accelerators, from what its log says.

Benchmarks log `throughput` without saying whether it is the total or the value per accelerator, and some do one, some
the other. What the run trained on in its time decides.
"""

from __future__ import annotations

from typing import Any

from benchmark.log_summary import LogSummary
from benchmark.rounds.progress_to_target import Progress, progress_at_stop
from benchmark.rounds.rules_by_round import SAMPLES, STEPS, TOKENS, Rules
from common.values import number, parse_number
from results.reading.run_data import Run

_TOTAL = (0.8, 3.0)
"""A logged throughput is a total if it is within these multiples of the samples trained per second of the run.

The run's time includes evaluations, so that the throughput of training alone is higher: 0.88 to 2.2 times in the
published rounds, up to 2.95 in one run."""
_PER_ACCELERATOR = (0.8, 2.0)
"""The same for the throughput times the accelerators: 1.01 to 1.22 in the published rounds."""


def fill_throughput(run: Run, log: LogSummary) -> None:
    """Fill in samples and seconds of audio per second of training; a note says what was concluded or is not known."""
    timed = [(seconds, stats) for stats in log.stats if (seconds := parse_number(stats.get("train_s"))) and seconds > 0]
    if timed:
        run.train_s = number(sum(seconds for seconds, _ in timed))
        waits = [parse_number(stats.get("data_wait_s")) for _, stats in timed]
        run.data_wait_s = None if None in waits else number(sum(wait for wait in waits if wait is not None))
        run.samples_per_s = _rate(timed, "utterances_per_s")
        run.audio_s_per_s = _rate(timed, "audio_s_per_s")
        return
    rates = [rate for stats in log.stats if (rate := parse_number(stats.get("throughput"))) is not None]
    if rates:
        run.samples_per_s, note = _total(number(sum(rates) / len(rates)), run, log)
        if note is not None:
            run.notes.append(note)


def _rate(epochs: list[tuple[float, dict[str, Any]]], key: str) -> float | None:
    """Mean rate over all epochs, weighted by their training time."""
    known = [(rate, seconds) for seconds, stats in epochs if (rate := parse_number(stats.get(key))) is not None]
    return number(sum(rate * seconds for rate, seconds in known) / sum(s for _, s in known)) if known else None


def _total(rate: float | None, run: Run, log: LogSummary) -> tuple[float | None, str | None]:
    """The total of a logged throughput, None if it cannot be told; with a note unless it was logged as a total."""
    rules = run.rules
    if log.run_s is None:
        return None, None  # Not a complete run, which is reported elsewhere.
    if rules.unit == TOKENS:
        return None, "throughput left out: it is logged in tokens/s"
    trained = _samples_trained(progress_at_stop(log, rules), run, rules)
    if not rate or not trained or log.run_s == 0:
        return None, "throughput left out: the log does not say what it counts"
    ratio = rate / trained * log.run_s
    if _TOTAL[0] <= ratio <= _TOTAL[1]:
        return rate, None
    accelerators = run.accelerators or 0
    if _PER_ACCELERATOR[0] <= ratio * accelerators <= _PER_ACCELERATOR[1]:
        return rate * accelerators, f"throughput is logged per accelerator: multiplied by {accelerators:,}"
    return None, "throughput left out: it is neither the total samples per second nor those of one accelerator"


def _samples_trained(progress: Progress | None, run: Run, rules: Rules) -> float | None:
    """Samples that a run has trained on at a progress; None if it is not known."""
    if progress is None:
        return None
    value, unit = progress
    if unit == SAMPLES:
        return value
    if unit == STEPS:
        per_unit = parse_number(run.global_batch_size)
    else:
        value -= rules.first_epoch
        per_unit = rules.epoch_samples or parse_number(run.train_samples)
    return number(value * per_unit) if per_unit is not None and value > 0 else None
