"""Error rates by epoch of the scaling runs of `synthetic`, as a table and a picture for docs/synthetic.md.

    python -m benches curves RUN...

RUN is a run's log or folder, or a folder of runs. Runs differ in width, precision, seed and, if the trainer had one, its mistake.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import mllog
from benchmark.log_summary import summarise
from benchmark.mllog import read_lines
from benchmark.submission import LOG_FILE, MAX_TARGET_WER
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError, run_cli
from common.files import write_atomically
from results.rendering.charts import WIDTH, Axis, Line, lines
from results.rendering.markup import Markup, tag

MISTAKE = "mistake"
"""Key of the log event that a trainer of `benches.mistakes` writes."""
COLUMNS = (
    "hidden", "learning_rate", "precision", "batch", "seed", "mistake", "epoch", "steps", "wer", "cer", "train_loss", "status",
)  # fmt: skip
ORDERED = ("hidden", "precision", "learning_rate", "mistake", "seed")
STYLE = (
    "svg { background: #ffffff; } text { font: 14px sans-serif; fill: #222222; } .quiet { fill: #555555; }"
    " .grid { stroke: #dddddd; } .target { stroke: #222222; stroke-dasharray: 6 4; }"
    " .curve { fill: none; stroke-width: 2; } .dot { fill: #ffffff; }"
)
COLOURS = ("#0072b2", "#c05a00", "#008060", "#a0468c", "#5a6d00", "#767676")
"""One colour for each kind of run that reached its target, the last one for mistakes."""


@dataclass(frozen=True)
class Curve:
    """One run: its label in the picture, and its rows of the table."""

    name: str
    mistaken: bool
    rows: tuple[dict[str, object], ...]


def curve_of(log: Path) -> Curve | None:
    """The curve of a run's log; None if no epoch was evaluated."""
    with open(log, "rb") as file:
        summary = summarise(read_lines(file))
    flat = summary.value(mllog.HYPERPARAMETERS)
    if not isinstance(flat, dict):
        raise UserError("the log has no hyperparameters", where=log)
    if lacking := [key for key in (mllog.TRAIN_SAMPLES, mllog.SEED) if key not in summary.first]:
        raise UserError(f"the log has no {lacking[0]}", where=log)
    mistake = summary.value(MISTAKE) or ""
    steps = -(-summary.value(mllog.TRAIN_SAMPLES) // flat["train.batch_size"])
    rows = [
        {
            "hidden": flat["model.rnn_hidden"],
            "learning_rate": flat["optimizer.learning_rate"],
            "precision": flat["train.precision"],
            "batch": flat["train.batch_size"],
            "seed": summary.value(mllog.SEED),
            "mistake": mistake,
            "epoch": epoch.epoch_num,
            "steps": steps * epoch.epoch_num,
            "wer": round(epoch.wer, 3),
            "cer": _rounded(epoch.cer),
            "train_loss": _rounded(epoch.train_loss),
            "status": summary.status or "unfinished",
        }
        for epoch in summary.epochs
    ]
    if not rows:
        return None
    width, precision = flat["model.rnn_hidden"], flat["train.precision"]
    name = f"width {width}" + (f", {precision}" if precision != "fp32" else "") + (", a mistake" if mistake else "")
    return Curve(name, bool(mistake), tuple(rows))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def table(curves: Sequence[Curve]) -> str:
    """The curves as CSV, one row per epoch."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for curve in curves:
        writer.writerows(curve.rows)
    return out.getvalue()


def picture(curves: Sequence[Curve]) -> str:
    """The curves as a standalone SVG file: word error rate by epoch, a colour for each kind of run."""
    kinds = list(dict.fromkeys(curve.name for curve in curves if not curve.mistaken))
    kinds += list(dict.fromkeys(curve.name for curve in curves if curve.mistaken))
    drawn = [
        Line(
            [(float(str(row["epoch"])), float(str(row["wer"]))) for row in curve.rows],
            kinds.index(curve.name),
            curve.name,
        )
        for curve in curves
    ]
    described = "Word error rate of each run by epoch, with the target of 23 %. The same figures are in curves.csv."
    svg = lines(
        "curves", "Scaling runs of synthetic", described, drawn,
        Axis("epoch", whole=True), Axis("word error rate %", top=100), target=MAX_TARGET_WER,
    )  # fmt: skip
    colours = {
        kind: COLOURS[-1] if kind.endswith("mistake") else COLOURS[place % 5] for place, kind in enumerate(kinds)
    }
    style = STYLE + "".join(
        f".s{place} {{ stroke: {colour}; }} .k{place} {{ fill: {colour}; }}"
        for place, colour in enumerate(colours.values())
    )
    legend = [
        tag("text", kind, x=WIDTH - 12, y=40 + 20 * place, text_anchor="end", class_=f"k{place}")
        for place, kind in enumerate(kinds)
    ]
    opened, _, rest = svg.partition(">")
    body = rest.removesuffix("</svg>")
    namespace = ' xmlns="http://www.w3.org/2000/svg"'
    return f"{opened}{namespace}>{tag('style', Markup(style))}{body}{''.join(legend)}</svg>\n"


def logs_below(paths: Sequence[Path]) -> list[Path]:
    """The logs (`result.txt`) in the folders of `paths`, and the files in `paths`; UserError if there are none."""
    found = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob(LOG_FILE)))]
    if not found:
        raise UserError("there is no run here", where=", ".join(map(str, paths)))
    return found


def main(arguments: list[str]) -> int:
    """Write the table and the picture; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benches curves",
        description=__doc__,
        epilog="example:\n  python -m benches curves runs/synthetic_width_160",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's log or folder, or a folder of runs")
    parser.add_argument(
        "--out", type=Path, default=Path("curves.csv"), metavar="FILE", help="CSV (default: %(default)s)"
    )
    parser.add_argument(
        "--picture", type=Path, default=Path("curves.svg"), metavar="FILE", help="SVG (default: %(default)s)"
    )
    options = parser.parse_args(arguments)

    def write() -> int:
        curves = [curve for log in logs_below(options.runs) if (curve := curve_of(log))]
        curves.sort(key=lambda curve: (curve.mistaken, *(str(curve.rows[0][key]).zfill(12) for key in ORDERED)))
        write_atomically(options.out, table(curves).encode())
        write_atomically(options.picture, picture(curves).encode())
        return EXIT_OK

    return run_cli(write)
