"""Updates the rule file for mlperf_logging's checker: `python -m compliance.rule_file` rewrites its closed table.

The rule file must be self-contained, so it contains the hash of each closed variant's parameters. Run this after
changing a variant or a corpus; a test fails until the file is up to date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmark.params import NEUTRAL, load_variant, variant_names
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError, run_cli
from common.files import write_atomically
from datasets.corpora import SIZES
from datasets.references import reference_of
from datasets.synthesis.plans import SYNTHESISED

RULE_FILE = Path(__file__).parent / "rules" / "deepspeech2.yaml"
_BEGIN, _END = "      # closed-begin\n", "      # closed-end\n"


def with_current_table(text: str) -> str:
    """`text` of a rule file with its table of closed values updated from the variants and corpora.

    Raises UserError if the markers around the table are missing.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise UserError(
            "the markers of the closed table are missing", where=RULE_FILE, remedy="restore the file from git"
        )
    return before + begin + _table() + end + after


def _table() -> str:
    lines = ["CLOSED = {"]
    for name in variant_names():
        params = load_variant(name)
        if params.division == "closed":
            folder = params.data.folder
            reference = None if folder in SYNTHESISED else reference_of(folder)
            digest = reference.tree_sha256 if reference else None
            lines.append(f"    {name!r}: ({params.sha256!r}, {SIZES[folder].train}, {digest!r}),")
    lines += ["}", "EVAL_SAMPLES = {"]
    lines += [f"    {folder!r}: {sizes.eval}," for folder, sizes in SIZES.items()]
    lines += ["}", f"NEUTRAL = {NEUTRAL!r}"]
    return "".join(f"      {line}\n" for line in lines)


EXAMPLE = "example:\n  python -m compliance.rule_file && git diff compliance/rules"


def main() -> int:
    """Rewrite the table of closed values in the rule file."""
    argparse.ArgumentParser(
        prog="python -m compliance.rule_file", description=__doc__, epilog=EXAMPLE, formatter_class=HelpFormatter
    ).parse_args()
    text = RULE_FILE.read_text(encoding="utf-8")
    write_atomically(RULE_FILE, with_current_table(text).encode())
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(run_cli(main))
