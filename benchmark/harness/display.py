"""What the user sees on stderr during a run: the trainer's progress, one line per epoch, messages."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from benchmark.record import EpochFacts
from benchmark.trainer_contract import ProgressLine, read_progress
from common.errors import one_line
from common.progress import Progress, format_duration

NO_BAR_AFTER_LINE_S = 0.2
"""For this long after a log line no new bar is drawn: it would be where `tee` is about to write."""

_PHASES = {"init": "setting up", "train": "training", "eval": "evaluating"}


class Display:
    """Draws on stderr; once stderr is gone (the terminal was closed), `lost` is True and nothing more is drawn."""

    def __init__(self) -> None:
        self.lost = False
        self._bar: Progress | None = None
        self._key: tuple[str, int] | None = None
        self._free_until_s = 0.0

    def message(self, text: str) -> None:
        """Show one message, above the bar where there is one."""
        try:
            print(one_line(text), file=sys.stderr, flush=True)
        except OSError:
            self._lose()

    def show(self, draw: Callable[[], None]) -> None:
        """Call `draw`, which prints on stderr; if stderr is gone, the run continues without it."""
        self.close()
        try:
            draw()
        except OSError:
            self._lose()

    def progress(self, raw: bytes) -> bool:
        """Show one progress line of the trainer; False if `raw` is not one."""
        line = read_progress(raw)
        if line is not None:
            self._draw(line)
        return line is not None

    def epoch(self, facts: EpochFacts, max_epochs: int, since_start_s: float) -> None:
        """Show an epoch's result; `since_start_s` is the time since run_start."""
        self.close()
        loss = "" if facts.train_loss is None else f"  loss {facts.train_loss:.4g}"
        speed = "" if facts.utterances_per_s is None else f"  {facts.utterances_per_s:,.0f} utterances/s"
        place = f"epoch {facts.epoch_num} of {max_epochs}"
        self.message(f"{place}: WER {facts.wer:.2f} %{loss}{speed}  {format_duration(since_start_s)} on the clock")

    def clear_for_log_line(self) -> None:
        """Remove the bar before a line on stdout, which may reach the same terminal a moment later (`| tee log`)."""
        self.close()
        self._free_until_s = time.monotonic() + NO_BAR_AFTER_LINE_S

    def close(self) -> None:
        """Remove the bar."""
        bar, self._bar, self._key = self._bar, None, None
        if bar is not None:
            try:
                # With an exception type the plain display prints no closing line: the epoch's line has the same facts.
                bar.__exit__(KeyboardInterrupt, None, None)
            except OSError:
                self._lose()

    def _draw(self, line: ProgressLine) -> None:
        key = (line.phase, line.epoch)
        try:
            if key != self._key:
                self.close()
                if time.monotonic() < self._free_until_s:
                    return
                label = _PHASES.get(line.phase, line.phase) + (f", epoch {line.epoch}" if line.epoch else "")
                self._bar, self._key = Progress(label, line.total, one_line(line.unit)).__enter__(), key
            assert self._bar is not None
            self._bar.update(line.done, one_line(line.note))
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """Stderr is gone: redirect it to /dev/null, so that no later write fails."""
        self.lost = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
