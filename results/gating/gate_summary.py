"""Renders what a gate found: as text, as Markdown for a pull request, and as annotations of GitHub Actions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from common.errors import one_line
from common.github_actions import annotation
from results.comparing.columns import figure, minutes_text
from results.comparing.verdict import comparison_text
from results.gating.decision import DOUBTS, Outcome
from results.gating.history import Entry, titles_of
from results.gating.matching import Gated
from results.rendering.export import markdown_text
from results.rendering.table_layout import wrap_line


def as_text(gated: Sequence[Gated], alone: Sequence[str], width: int) -> str:
    """A paragraph for each set of new runs, in lines of at most `width` terminal cells; `alone` are other notes."""
    blocks = []
    for each, title in _titled(gated):
        lines = [_wrapped(_headline(each, title), width)]
        lines += [_wrapped(line, width, "  ") for line in _details(each)]
        blocks.append("\n".join(lines))
    notes = [*alone, *_verification(gated)]
    return "\n\n".join([*blocks, "\n".join(_wrapped(note, width) for note in notes)]) + "\n"


def _wrapped(text: str, width: int, indent: str = "") -> str:
    """`text` in lines, with every number on the line of its percent sign or x."""
    joined = re.sub(r"(?<=\d) (?=%|x\b)", "\N{NO-BREAK SPACE}", one_line(text))
    return wrap_line(joined, width, indent).replace("\N{NO-BREAK SPACE}", " ")


def as_markdown(gated: Sequence[Gated], alone: Sequence[str]) -> str:
    """The same as Markdown, which ends with an empty line, so that other summaries can follow in the same file."""
    lines = []
    for each, title in _titled(gated):
        lines += [f"### {markdown_text(f'{_verdict(each)}: {title}')}", ""]
        lines += [markdown_text(f"{each.new_name} {each.decision.text}") + ".", ""]
        lines += [f"- {markdown_text(line)}" for line in _details(each)] + [""]
    notes = [*alone, *_verification(gated)]
    return "\n".join([*lines, *(f"{markdown_text(note)}\n" for note in notes)]) + "\n"


def as_github(gated: Sequence[Gated]) -> str:
    """An annotation for each set of new runs: an error if it failed, a warning if in doubt; and one for each warning."""
    lines = []
    for each, name in _titled(gated):
        doubtful = each.decision.outcome in DOUBTS and not each.accepted
        level = "error" if not each.passed else "warning" if doubtful else "notice"
        title = f"{_TITLES[each.decision.outcome]}{' (accepted)' * each.accepted}: {one_line(name)}"
        lines.append(annotation(level, one_line(_headline(each, name)), title=title))
        lines += [annotation("warning", one_line(warning), title=title) for warning in each.warnings]
    return "".join(line + "\n" for line in lines)


_TITLES = {
    Outcome.NOTHING: "No baseline yet",
    Outcome.WITHIN: "Not slower",
    Outcome.UNCLEAR: "Not slower as far as known",
    Outcome.SEEMS_SLOWER: "Perhaps slower",
    Outcome.TOO_FEW: "Cannot tell yet",
    Outcome.SLOWER: "Slower than the baseline",
    Outcome.NO_TARGET: "Target not reached",
}


_MOST_ANNOTATIONS = 5
"""GitHub shows ten warnings of a step, and some are of the gate itself."""


def problems_for_github(problems: Sequence[str]) -> str:
    """Annotations of what could not be read, the first few of many."""
    shown = list(problems[:_MOST_ANNOTATIONS])
    if rest := len(problems) - len(shown):
        shown.append(f"{rest} more problems are in the job's log")
    return "".join(annotation("warning", one_line(text), title="Performance gate") + "\n" for text in shown)


def error_for_github(text: str) -> str:
    """The annotation of an error, of one line."""
    return annotation("error", one_line(text), title="Performance gate: error") + "\n"


def _titled(gated: Sequence[Gated]) -> Iterator[tuple[Gated, str]]:
    return zip(gated, titles_of([each.new for each in gated]), strict=True)


def _headline(each: Gated, title: str) -> str:
    """The outcome of one set of new runs in one sentence, without a full stop."""
    return f"{_verdict(each)}: {title}: {each.new_name} {each.decision.text}"


def _verdict(each: Gated) -> str:
    return "accepted" if each.accepted else "passed" if each.passed else "FAILED"


def _details(each: Gated) -> list[str]:
    lines = []
    if each.decision.speedup is not None:
        unit = each.new.progress_unit or "progress"
        # How many runs would tell is said of the margin, in the headline.
        lines.append(comparison_text(each.new_name, each.base_name, each.decision.speedup, unit, advise=False))
    lines.append(_side(each.new_name, each.new))
    if each.baseline is not None:
        lines.append(_side(each.base_name, each.baseline))
    return [line for line in lines if line] + each.notes + [f"warning: {warning}" for warning in each.warnings]


def _side(name: str, entry: Entry) -> str:
    score = entry.score
    value = f"{minutes_text(score.minutes)} minutes, {score.rule}" if score.minutes is not None else score.rule
    rates = [run.samples_per_s for run in entry.runs if run.samples_per_s is not None]
    rate = f"{figure(sum(rates) / len(rates))} samples/s" if rates else ""
    origin = entry.origin.removeprefix(f"{name}, ") if entry.label == name else entry.origin
    return f"{name}: {', '.join(part for part in (value, rate, origin) if part)}"


def _verification(gated: Sequence[Gated]) -> list[str]:
    return [f"Scores are {worth}." for worth in dict.fromkeys(each.new.aspects.verification for each in gated)]
