"""Runs mlperf_logging's compliance checker on one log and returns what it says, in time linear in the log's size.

Its rules are evaluated by its own code. Only the reading of the file is ours: its parser removes the text before the
token with a regular expression that takes quadratic time in the length of a line.
"""

from __future__ import annotations

import functools
import importlib
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

from benchmark.mllog import SEED
from benchmark.rounds.round_names import TRAINING
from benchmark.rounds.rules_by_round import runs_of

_LOCK = threading.Lock()
"""For `_one_at_a_time`, which changes the checker's module; the checker also keeps its rule files in a global list."""
_PARSING_ERRORS = "Log lines had parsing errors."


@dataclass(frozen=True)
class OfficialMessage:
    """One message of the checker: the log key that it is about, its text, and the line of the log, if known."""

    key: str | None
    text: str
    line: int | None

    @property
    def short(self) -> str:
        """The text without the copy of the log line and the checker's own state."""
        lines = [line.strip() for line in self.text.splitlines()]
        kept = [line for line in lines if line and not line.startswith(":::MLL")]
        end = next((at for at, line in enumerate(kept) if line.startswith("current context")), len(kept))
        return " ".join([re.sub(r" in line \d+:$", ":", kept[0]), *kept[1:end]]) if kept else self.text

    def misses(self, name: str) -> bool:
        """Whether the message says that a key is missing in the whole log."""
        missing = self.key == name and self.text.startswith("Required ") and self.text.endswith("but found 0")
        return missing or (self.text.startswith("failed test:") and f"s['{name}']" in self.text.splitlines()[0])


@dataclass
class OfficialVerdict:
    """What the checker says of a log.

    `stopped` is the exception with which it stopped, `missing_rules` the name of the rule file that it did not find.
    `seeds` are the lines with a seed, each with its value and metadata, `broken` the numbers of lines that its parser
    refuses; it accepts more than ours (NaN, any depth).
    """

    valid: bool
    errors: list[OfficialMessage] = field(default_factory=list)
    warnings: list[OfficialMessage] = field(default_factory=list)
    stopped: str | None = None
    missing_rules: str | None = None
    seeds: list[tuple[int, Any, Any]] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)


def _rules_folder() -> Path:
    from mlperf_logging.compliance_checker import mlp_compliance

    return Path(mlp_compliance.__file__).parent


@functools.cache
def rulesets(usage: str = TRAINING) -> list[str]:
    """The rule sets of mlperf_logging for a suite, oldest first."""
    names = [path.name for path in _rules_folder().glob(f"{usage}_*") if path.is_dir()]
    found = [match[1] for name in names if (match := re.fullmatch(r"[a-z]+_(\d+\.\d+\.\d+)", name))]
    return sorted(found, key=lambda name: tuple(int(part) for part in name.split(".")))


@functools.cache
def rulesets_of(benchmark: str, usage: str = TRAINING) -> list[str]:
    """The rule sets of a suite that include a benchmark, oldest first; empty if there are none."""
    # A log may contain any text as the name, including one that is not a valid file name or points elsewhere.
    if benchmark not in runs_of(usage):
        return []
    return [
        name
        for name in rulesets(usage)
        if any((_rules_folder() / f"{usage}_{name}" / f"{form}.yaml").is_file() for form in _rule_files(benchmark))
    ]


def _rule_files(benchmark: str) -> tuple[str, str]:
    # Round 0.6 and MLPerf HPC have one file per benchmark, later rounds one per division.
    return f"closed_{benchmark}", benchmark


def check_log(path: Path, usage: str, ruleset: str) -> OfficialVerdict:
    """The checker's verdict on a log by a rule set of a suite.

    Raises OSError if the log cannot be read.
    """
    from mlperf_logging.compliance_checker import mlp_compliance

    checker = mlp_compliance.make_checker(usage, ruleset, False, False)
    log = _Lines()
    try:
        log = _read(path, ruleset)
        if log.failed:
            checker.put_message(_PARSING_ERRORS)
        with _one_at_a_time(mlp_compliance):
            checker.check_loglines(log.parsed, f"{usage}_{ruleset}/common.yaml")
    except OSError as error:
        if error.filename is None or Path(str(error.filename)) == Path(path):
            raise
        # The checker finds rule files by the log's benchmark and optimizer names, which may be any text.
        return OfficialVerdict(False, missing_rules=Path(str(error.filename)).name[:80])
    # Third-party code that fails in many ways on a broken log; in all of them the log was not accepted.
    except Exception as error:
        return OfficialVerdict(False, stopped=f"{type(error).__name__}: {error}")
    texts = [*checker.overwritable.items(), *((None, text) for text in checker.not_overwritable)]
    errors = [OfficialMessage(key, text, log.line_of(key, text)) for key, text in texts]
    warnings = [OfficialMessage(key, text, log.line_of(key, text)) for key, text in checker.warnings.items()]
    seeds = [
        (log.numbers[each.lineno], each.value["value"], each.value["metadata"])
        for each in log.parsed
        if each.key == SEED and isinstance(each.value, dict) and "metadata" in each.value
    ]
    return OfficialVerdict(not checker.has_messages(), errors, warnings, seeds=seeds, broken=log.failed)


@dataclass
class _Lines:
    """A log as the checker's parser returns it, and the file's line number of each line with a token."""

    parsed: list[Any] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def line_of(self, key: str | None, text: str) -> int | None:
        """The line that a message is about: the one it quotes, or the last one of the key."""
        if key is None and text == _PARSING_ERRORS:
            return self.failed[0]
        if found := re.match(r"CHECK for .* failed in line (\d+):", text):
            return self.numbers[int(found[1])]
        quoted = re.search(r"^:::MLL.*$", text, re.MULTILINE)
        named = key or next(iter(re.findall(r"checks for (\w+) :", text)), None)
        same = (event for event in reversed(self.parsed) if event.full_string == quoted[0]) if quoted else iter(())
        event = next(same, None) or next((event for event in reversed(self.parsed) if event.key == named), None)
        return self.numbers[event.lineno] if event else None


def _read(path: Path, ruleset: str) -> _Lines:
    """The log's lines as the checker's parser reads them: Latin-1, any line ends, text from the line's last token on."""
    parser = parser_of(ruleset)
    log = _Lines()
    with open(path, encoding="latin-1") as file:
        for number, text in lines_with_token(file, parser.TOKEN):
            index = len(log.numbers)
            log.numbers.append(number)
            try:
                log.parsed.append(parser.string_to_logline(index, text))
            except ValueError:
                log.failed.append(number)
    return log


def parser_of(ruleset: str) -> Any:
    """The checker's parser module for a rule set: `TOKEN` and `string_to_logline`."""
    return importlib.import_module(f"mlperf_logging.compliance_checker.mlp_parser.ruleset_{ruleset.replace('.', '')}")


def lines_with_token(lines: Iterable[str], token: str) -> Iterator[tuple[int, str]]:
    """The lines with a token, from the last token on, each with its number counted from 1."""
    for number, line in enumerate(lines, 1):
        at = line.rfind(token)
        if at >= 0:
            yield number, line[at:].strip()


@contextmanager
def _one_at_a_time(module: Any) -> Iterator[None]:
    """Let one thread at a time run the checker, with four names of its module replaced.

    `yaml`: parsed rule files are kept for the whole process. `eval` and `exec`, which shadow the built-in functions:
    each rule is compiled once. `preety_dict`: a message would dump all that the rules have collected, for each line
    that fails, which takes quadratic time. Only callers of this module are protected by the lock. Written for the
    mlperf-logging of requirements.lock; the tests compare verdicts and messages with the checker's own.
    """
    cached_yaml = SimpleNamespace(load=lambda file, Loader: _rules_in(file.name), BaseLoader=None)
    faster = {"yaml": cached_yaml, "eval": _evaluate, "exec": _execute, "preety_dict": lambda values: "(not shown)"}
    with _LOCK:
        originals = {name: vars(module).get(name) for name in faster}
        module.enqueued_configs.clear()
        vars(module).update(faster)
        try:
            yield
        finally:
            for name, original in originals.items():
                if original is None:
                    delattr(module, name)
                else:
                    setattr(module, name, original)


@functools.lru_cache(maxsize=256)
def _rules_in(path: str) -> Any:
    import yaml

    with open(path) as file:
        return yaml.load(file, Loader=yaml.BaseLoader)


@functools.lru_cache(maxsize=4096)
def _compiled(source: str, mode: str) -> CodeType:
    return compile(source, "<rule>", mode, dont_inherit=True)


def _evaluate(source: str, names: dict[str, Any], values: dict[str, Any] | None = None) -> Any:
    return eval(_compiled(source, "eval"), names, values)


def _execute(source: str, names: dict[str, Any], values: dict[str, Any] | None = None) -> None:
    exec(_compiled(source, "exec"), names, values)
