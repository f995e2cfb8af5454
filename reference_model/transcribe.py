"""Text for any WAV or FLAC file, of any sample rate, number of channels and length.

    python -m reference_model.transcribe talk.wav --checkpoint runs/mini/.../checkpoints/epoch_03.pt
    python -m reference_model.transcribe *.flac --onnx model.onnx --json
    python -m reference_model.transcribe - --onnx model.onnx < talk.flac

Prints a file's text on one line; with several files, the file's name and a tab before it. Files longer than
--piece-seconds are cut where they are quietest. The reason why a file gives no text is printed on stderr. Exit status:
0 done, 2 some files could not be read (the others are transcribed), or another error.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import HelpFormatter
from common.errors import EXIT_ERROR, EXIT_OK, UserError, from_os_error, one_line, run_cli
from reference_model.inference.audio_input import PIECE_S, STDIN, blocks_16k
from reference_model.inference.inference_options import AUTO

if TYPE_CHECKING:
    from reference_model.inference.engine_choice import Opened
    from reference_model.inference.transcription import Transcript


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_model.transcribe",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="WAV or FLAC; - reads it from stdin")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--checkpoint", type=Path, help="a checkpoint of any known format")
    network.add_argument("--onnx", type=Path, help="a file of reference_model.export_onnx")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--piece-seconds", type=float, default=PIECE_S, help=f"cut longer files (default {PIECE_S:g})")
    parser.add_argument("--json", action="store_true", help="a JSON object a line: text, pieces and words with times")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Transcribe the files; returns the exit status."""
    args = parse_arguments(argv)
    if not 1 <= args.piece_seconds < float("inf"):
        raise UserError("must be at least 1", where="--piece-seconds")
    if args.files.count(STDIN) > 1:
        raise UserError("stdin can be read once", where=STDIN, remedy="name it once")
    # These import torch, which --help need not wait for.
    from reference_model.inference.engine_choice import open_engine
    from reference_model.runtime import choose_device

    opened = open_engine(args.onnx or args.checkpoint, "onnx" if args.onnx else AUTO, choose_device(args.device))
    status = EXIT_OK
    for name in args.files:
        transcript, error = _transcribe_file(name, opened, args.piece_seconds)
        status = EXIT_ERROR if error else status
        if args.json:
            print(_as_json(name, transcript, error), flush=True)
        elif transcript:
            print(f"{one_line(name)}\t{transcript.text}" if len(args.files) > 1 else transcript.text, flush=True)
    return status


def _transcribe_file(name: str, opened: Opened, piece_s: float) -> tuple[Transcript | None, str | None]:
    """A file's transcript, or the error message why there is none; messages also go to stderr."""
    from reference_model.inference.transcription import transcribe

    try:
        transcript = transcribe(blocks_16k(name), opened, piece_s)
    except (UserError, OSError) as caught:
        fault = caught if isinstance(caught, UserError) else from_os_error(caught)
        error = str(UserError(fault.what, where=fault.where or name, remedy=fault.remedy))
        print(f"error: {error}", file=sys.stderr, flush=True)
        return None, error
    if transcript.empty_because:
        print(f"note: {one_line(name)}: no text: {transcript.empty_because}", file=sys.stderr, flush=True)
    return transcript, None


def _as_json(name: str, transcript: Transcript | None, error: str | None) -> str:
    empty: dict[str, object] = {"text": None, "duration_s": None, "pieces": [], "empty_because": None}
    return json.dumps({"file": name} | (asdict(transcript) if transcript else empty) | {"error": error})


if __name__ == "__main__":
    sys.exit(run_cli(main))
