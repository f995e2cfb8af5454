"""`python -m datasets stats`: hours of speech, utterance lengths and characters of a dataset."""

from __future__ import annotations

import argparse
from collections import Counter

from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError
from datasets.command_options import add_folder, default_folder
from datasets.dataset import Dataset, Split, read_dataset
from datasets.manifest import ALPHABET, Manifest, Utterance

BIN_S = 2.0
BAR_WIDTH = 50


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command `stats`."""
    parser = commands.add_parser(
        "stats",
        help="hours, speakers, lengths and letters of a prepared dataset",
        description="Print hours, utterances, speakers, a histogram of lengths, and the letters of a prepared dataset.",
        epilog="examples:\n  python -m datasets stats data/mini\n  python -m datasets stats --split train",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_folder(parser)
    parser.add_argument("--split", help="only this split (default: all)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    dataset = read_dataset(options.folder or default_folder())
    names = [options.split] if options.split else list(dataset.splits)
    print("\n\n".join(describe_split(dataset, name) for name in names))
    return EXIT_OK


def describe_split(dataset: Dataset, name: str) -> str:
    """A split's counts, histogram of lengths and letter frequencies, as lines of text."""
    manifest = dataset.manifest(name)
    return "\n".join(
        [
            f"{dataset.name} {name}",
            *_counts(dataset.splits[name], manifest),
            "",
            *histogram([u.duration_s for u in manifest]),
            "",
            *_letters(manifest),
        ]
    )


def _counts(split: Split, manifest: Manifest) -> list[str]:
    utterances = manifest.utterances
    if not utterances:
        raise UserError("the split is empty", where=manifest.root)
    words = sum(len(u.text.split()) for u in utterances)
    median = utterances[len(utterances) // 2].duration_s
    return [
        f"  utterances {len(utterances):,}",
        f"  hours      {manifest.duration_s / 3600:,.2f}",
        f"  speakers   {'unknown' if split.speakers is None else format(split.speakers, ',')}",
        f"  words      {words:,}, {len({word for u in utterances for word in u.text.split()}):,} different",
        f"  shortest   {_shown(utterances[0])}",
        f"  median     {median:.2f} s",
        f"  longest    {_shown(utterances[-1])}",
    ]


def _shown(utterance: Utterance) -> str:
    text = utterance.text if len(utterance.text) <= 60 else utterance.text[:57] + "..."
    return f"{utterance.duration_s:.2f} s  {utterance.id}  {text}"


def histogram(durations_s: list[float]) -> list[str]:
    """The lines of a histogram of durations, in bins of BIN_S seconds."""
    bins = Counter(int(duration_s // BIN_S) for duration_s in durations_s)
    most = max(bins.values())
    lines = []
    for number in range(min(bins), max(bins) + 1):
        bar = "#" * -(-bins[number] * BAR_WIDTH // most)
        lines.append(f"  {number * BIN_S:5.0f}-{(number + 1) * BIN_S:3.0f} s {bins[number]:9,} {bar}".rstrip())
    return lines


def _letters(manifest: Manifest) -> list[str]:
    counts = Counter[str]()
    for utterance in manifest:
        counts.update(utterance.text)
    total = sum(counts.values())
    shown = [f"{'space' if c == ' ' else c} {100 * n / total:.1f}%" for c, n in counts.most_common()]
    missing = "".join(sorted(ALPHABET - counts.keys())).replace(" ", "space")
    lines = [f"  alphabet   {len(counts)} of {len(ALPHABET)} characters" + (f" (never: {missing})" if missing else "")]
    return lines + ["             " + "  ".join(shown[i : i + 10]) for i in range(0, len(shown), 10)]
