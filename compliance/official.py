"""Logs of MLPerf's own benchmarks, checked by mlperf_logging with its rule files; we add the line of each message.

That checker reports the last message for each key, with its own line numbers, and stops with a traceback on some
broken lines. Here every message gets the line of the event that it quotes, and a traceback becomes a finding.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from benchmark.submission import rounds_above
from common.errors import UserError
from compliance.findings import WARNING, Fault, Rule
from compliance.log import Log

VERDICT = "official-verdict"


@cache
def rulesets() -> list[str]:
    """The rule sets of mlperf_logging, oldest first."""
    from mlperf_logging.compliance_checker import mlp_compliance

    return sorted(mlp_compliance.rule_choices(), key=_version)


def _version(ruleset: str) -> tuple[int, ...]:
    return tuple(int(part) for part in ruleset.split("."))


@cache
def rulesets_of(benchmark: str) -> list[str]:
    """The training rule sets that include a benchmark, oldest first; empty if there are none."""
    from mlperf_logging.compliance_checker import mlp_compliance

    # A log may contain any text as the name, including one that is no valid file name or points elsewhere.
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", benchmark):
        return []
    folder = Path(mlp_compliance.__file__).parent
    return [name for name in rulesets() if (folder / f"training_{name}" / f"closed_{benchmark}.yaml").is_file()]


def ruleset_for(path: Path, benchmark: str, chosen: str | None) -> str:
    """The rule set for a log: the one chosen, the round in a folder's name, or the newest with the benchmark."""
    if chosen is not None:
        return chosen
    for folder, its_round in rounds_above(path):
        if "training" in folder.lower() and f"{its_round}.0" in rulesets():
            return f"{its_round}.0"
    known = rulesets_of(benchmark)
    return known[-1] if known else rulesets()[-1]


def check_ruleset(name: str) -> str:
    """`name` if mlperf_logging has that rule set; otherwise UserError with the list."""
    if name not in rulesets():
        raise UserError(f"no rule set {name!r}", where="--ruleset", remedy=f"choose one of {', '.join(rulesets())}")
    return name


def official_rule(ruleset: str, config: Path | None = None) -> Rule:
    """The rule that mlperf_logging's checker accepts a log; `config` is a custom rule file (absolute path)."""
    says = "mlperf_logging's checker accepts a log of an MLPerf benchmark."
    return Rule(VERDICT, says, lambda log: _run_checker(log, ruleset, config))


def _run_checker(log: Log, ruleset: str, config: Path | None) -> Iterator[Fault]:
    from mlperf_logging.compliance_checker import mlp_compliance

    expected = f"a log that mlperf_logging accepts (training {ruleset})"
    remedy = "see MLPerf's training rules of that round"
    checker = mlp_compliance.make_checker("training", ruleset, False, False)
    mlp_compliance.enqueued_configs.clear()
    with _silenced_logging():
        try:
            valid = mlp_compliance.main(str(log.path), str(config or f"training_{ruleset}/common.yaml"), checker)[0]
        except FileNotFoundError as error:
            # The checker finds rule files by the log's benchmark and optimizer names.
            name = Path(str(error.filename)).name
            others = ", ".join(rulesets_of(log.benchmark or "")) or "none"
            remedy = f"check submission_benchmark and opt_name, or use --ruleset (with this benchmark: {others})"
            yield Fault(expected, f"no rules called {name} there", remedy, log.line("submission_benchmark"))
            return
        # Third-party code that fails in many ways on a broken log; in all of them the log was not accepted.
        except Exception as error:
            found = f"its checker stopped: {type(error).__name__}: {error}"
            yield Fault(expected, found, "restore the lines named in our other findings", _bad_line(log))
            return
    for key, message in checker.overwritable.items():
        yield Fault(expected, _short_message(message), remedy, _line_of(log, key, message))
    for message in checker.not_overwritable:
        yield Fault(expected, _short_message(message), remedy, _line_of(log, None, message))
    for key, message in checker.warnings.items():
        yield Fault(expected, _short_message(message), remedy, _line_of(log, key, message), WARNING)
    if not valid and not checker.overwritable and not checker.not_overwritable:
        yield Fault(expected, "it was refused without a message", remedy)


def _short_message(message: str) -> str:
    """A message without the copy of the log line and the checker's own state."""
    lines = [line.strip() for line in message.splitlines()]
    kept = [line for line in lines if line and not line.startswith(":::MLLOG")]
    for at, line in enumerate(kept):
        if line.startswith("current context"):
            kept = kept[:at]
            break
    return re.sub(r" in line \d+:$", ":", kept[0]) + " " + " ".join(kept[1:]) if kept else message


def _line_of(log: Log, key: str | None, message: str) -> int | None:
    """The line of the log that a message is about."""
    if "parsing errors" in message:
        return _bad_line(log)
    quoted = re.search(r"^:::MLLOG .*$", message, re.MULTILINE)
    if quoted:
        from benchmark.mllog import Event, parse_line

        event = parse_line(quoted[0].encode("latin-1", "replace"))
        if isinstance(event, Event):
            same = [e.line for e in log.all(event.key) if e.time_ms == event.time_ms and e.value == event.value]
            if same:
                return same[-1]
    named = key or next(iter(re.findall(r"checks for (\w+) :", message)), None)
    events = log.all(named) if named else []
    return events[-1].line if events else None


def _bad_line(log: Log) -> int | None:
    return log.bad[0].line if log.bad else None


@contextmanager
def _silenced_logging() -> Iterator[None]:
    """Suppress the checker's logging: its messages are read from the checker object."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = [logging.NullHandler()]
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


OFFICIAL_RULES = [official_rule("")]
"""Only for the list of rules; `official_rule` makes the one that is applied."""
