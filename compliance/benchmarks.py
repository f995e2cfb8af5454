"""Which benchmark a log belongs to, and therefore which rules apply.

A log of an unknown benchmark gives one finding instead of thirty.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from benchmark import mllog
from benchmark.rounds.round_names import USAGES
from benchmark.rounds.rules_by_round import runs_of, usage_of
from compliance.findings import Fault, Rule, shown
from compliance.log import Log

_OWN_KEYS = (mllog.PARAMS_SHA256, mllog.TARGET_WER)
"""Keys that DeepSpeech2 logs and no MLPerf benchmark does."""
_EXPECTED = f"{mllog.BENCHMARK}, or a benchmark of MLPerf Training or HPC"


def checked_as(log: Log) -> str | None:
    """The benchmark whose rules apply to a log; None if its name is unknown or contradicts the logged keys.

    A log without a name takes that of its folder, or DeepSpeech2 if it contains DeepSpeech2's own keys.
    """
    own = any(log.all(key) for key in _OWN_KEYS)
    if log.first(mllog.SUBMISSION_BENCHMARK) is None:
        folder = log.path.parent.name
        if usage_of(folder):
            return folder
        return mllog.BENCHMARK if own or folder == mllog.BENCHMARK else None
    name = log.benchmark
    theirs = name is not None and not own and usage_of(name)
    return name if theirs or name == mllog.BENCHMARK else None


def is_deepspeech2(log: Log) -> bool:
    """Whether a log has events and is checked by DeepSpeech2's rules."""
    return bool(log.events) and checked_as(log) == mllog.BENCHMARK


def is_other_benchmark(log: Log) -> bool:
    """Whether a log has events and belongs to another benchmark."""
    return bool(log.events) and checked_as(log) != mllog.BENCHMARK


def _known(log: Log) -> Iterator[Fault]:
    if not log.events or checked_as(log) is not None:
        return
    event = log.first(mllog.SUBMISSION_BENCHMARK)
    if event is None:
        remedy = "pass a log of DeepSpeech2 or of MLPerf; nothing else in this log was checked"
        yield Fault(f"{mllog.SUBMISSION_BENCHMARK}: {_EXPECTED}", "no such event", remedy)
    elif usage_of(log.benchmark):
        found = f"{shown(event.value)}, in a log with DeepSpeech2's own keys"
        remedy = "log the benchmark that ran; nothing else in this log was checked"
        yield Fault(mllog.BENCHMARK, found, remedy, event.line)
    else:
        near = _near(log.benchmark or "")
        meant = f" (did it mean {near}?)" if near else ""
        remedy = (
            f"check the name{meant}; there are no rules for other benchmarks, and nothing else in this log was checked"
        )
        yield Fault(_EXPECTED, shown(event.value), remedy, event.line)


def _near(name: str) -> str | None:
    """The known name closest to a misspelt one (DeepSpeech2, deepspeech, resnet50); None if none is close."""
    names = [mllog.BENCHMARK, *(name for usage in USAGES for name in runs_of(usage))]
    plain = "".join(c for c in name[:64].casefold() if c.isalnum())
    return next(iter(difflib.get_close_matches(plain, names, 1, 0.8)), None)


KNOWN = Rule(
    "benchmark-known",
    "The benchmark is DeepSpeech2 or one of MLPerf; logs of others are not checked further.",
    _known,
)
