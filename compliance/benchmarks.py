"""Which benchmark a log is of, and so whose rules judge it; a log of no benchmark known here is one finding, not thirty."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from benchmark import mllog
from benchmark.submission import TRAINING_RUNS
from compliance import official
from compliance.findings import Fault, Rule, shown
from compliance.log import Log

_OWN_KEYS = (mllog.PARAMS_SHA256, mllog.TARGET_WER)
"""Keys that DeepSpeech2 logs, and no benchmark of MLPerf's."""
_EXPECTED = f"{mllog.BENCHMARK}, or a benchmark of MLPerf Training"


def judged_as(log: Log) -> str | None:
    """The benchmark whose rules a log is judged by; None where its name is unknown, or not that of what it logs.

    A log that names none is of the benchmark that its folder is called by, or DeepSpeech2's, if it has its keys.
    """
    own = any(log.all(key) for key in _OWN_KEYS)
    if log.first(mllog.SUBMISSION_BENCHMARK) is None:
        folder = log.path.parent.name
        if official.rulesets_of(folder):
            return folder
        return mllog.BENCHMARK if own or folder == mllog.BENCHMARK else None
    name = log.benchmark
    theirs = name is not None and not own and official.rulesets_of(name)
    return name if theirs or name == mllog.BENCHMARK else None


def is_ours(log: Log) -> bool:
    """Whether a log holds events and is judged as DeepSpeech2's."""
    return bool(log.events) and judged_as(log) == mllog.BENCHMARK


def is_another(log: Log) -> bool:
    """Whether a log is another benchmark's; one without events is nobody's."""
    return bool(log.events) and judged_as(log) != mllog.BENCHMARK


def _known(log: Log) -> Iterator[Fault]:
    if not log.events or judged_as(log) is not None:
        return
    event = log.first(mllog.SUBMISSION_BENCHMARK)
    if event is None:
        remedy = "give a log of DeepSpeech2 or of MLPerf Training; nothing else of this one was checked"
        yield Fault(f"{mllog.SUBMISSION_BENCHMARK}: {_EXPECTED}", "no such event", remedy)
    elif official.rulesets_of(log.benchmark or ""):
        found = f"{shown(event.value)}, in a log with DeepSpeech2's own keys"
        remedy = "log the benchmark that ran; nothing else of this log was checked"
        yield Fault(mllog.BENCHMARK, found, remedy, event.line)
    else:
        near = _near(log.benchmark or "")
        meant = f" (did it mean {near}?)" if near else ""
        remedy = f"check the name{meant}; other benchmarks have no rules here, and nothing else of this log was checked"
        yield Fault(_EXPECTED, shown(event.value), remedy, event.line)


def _near(name: str) -> str | None:
    """The name that a misspelt one was probably meant to be (DeepSpeech2, deepspeech, resnet50); None without one."""
    names = [mllog.BENCHMARK, *TRAINING_RUNS]
    plain = "".join(c for c in name[:64].casefold() if c.isalnum())
    return next(iter(difflib.get_close_matches(plain, names, 1, 0.8)), None)


KNOWN = Rule(
    "benchmark-known",
    "The benchmark is DeepSpeech2 or one of MLPerf Training; nothing else of a log of any other is judged.",
    _known,
)
