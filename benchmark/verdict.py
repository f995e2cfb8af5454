"""How a run ended, and why in one clause: from the trainer's exit status, the log it left and what it said on stderr."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from datasets.errors import DID_NOT_HOLD, HELD

from . import mllog
from .record import Status
from .run_log import RunLog

EXIT_STATUS = {"success": HELD, "aborted": DID_NOT_HOLD}
"""The harness's own exit status for each status of a run; every other status is COULD_NOT."""

TARGET_MISSED = "target not reached"
"""How a line begins that a trainer says on stderr, on every machine but the first, when its run ended without the target."""

_EXCEPTION = re.compile(r"(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?:: .*)?)$")
_TORCHRUN_SIGNAL = re.compile(r"Signal \d+ \((SIG\w+)\) received by PID")


def verdict(
    exit_status: int, log: RunLog, errors: Sequence[str], *, target_wer: float, log_decides: bool
) -> tuple[Status, str | None]:
    """Status and reason of a run that nobody interrupted.

    `exit_status` is the trainer's, negative for a signal; `errors` its last lines on stderr. `log_decides`: the exit
    status says nothing (torchrun's is 1 whatever its workers' were), so the log alone decides.
    """
    run_stop, aborted = log.last(mllog.RUN_STOP), log.last(mllog.RUN_ABORTED_REASON)
    claimed = run_stop.metadata.get(mllog.STATUS) if run_stop else None
    score = log.last(mllog.EVAL_ACCURACY)
    wer = score.value if score and isinstance(score.value, int | float) else None
    if claimed == mllog.SUCCESS and (log_decides or exit_status == HELD):
        if wer is None or wer > target_wer:
            return "failed", f"the trainer claims success, but its last WER is {wer}, the target {target_wer:g}"
        return "success", None
    if claimed == mllog.ABORTED and aborted is None and (log_decides or exit_status == DID_NOT_HOLD):
        return "aborted", f"WER {target_wer:g} was not reached in {score.epoch_num if score else 0} epochs"
    return "failed", _failure(exit_status, errors)


def follower_verdict(exit_status: int, errors: Sequence[str]) -> tuple[Status, str | None]:
    """The same on a machine whose trainer processes write no log: the first machine's record has the result.

    torchrun's exit status is 0 for a target that was missed too, so the trainer says TARGET_MISSED there, on a line of stderr.
    """
    if exit_status == HELD and any(line.startswith(TARGET_MISSED) for line in errors):
        return "aborted", "the target was not reached: see the record of machine 0"
    if exit_status == HELD:
        return "success", None
    if exit_status == DID_NOT_HOLD and not any(line.startswith("error: ") for line in errors):
        return "aborted", "the target was not reached, or a process failed: see the record of machine 0"
    return "failed", _failure(exit_status, errors)


def _failure(exit_status: int, errors: Sequence[str]) -> str:
    if exit_status < 0:
        return _killed(signal.Signals(-exit_status).name)
    for line in reversed(errors):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    # torchrun ends the others with SIGTERM when one of its processes fails: that signal is no cause.
    signals = [found[1] for line in errors if (found := _TORCHRUN_SIGNAL.search(line)) and found[1] != "SIGTERM"]
    if signals:
        return _killed(signals[-1])
    for line in reversed(errors):
        found = _EXCEPTION.match(line)
        if found and "ChildFailedError" not in line:
            return f"the trainer crashed: {found[1]}"
    said = next((line.strip() for line in reversed(errors) if line.strip()), None)
    odd = " although its log has no such result" if exit_status in (HELD, DID_NOT_HOLD) else ""
    return f"the trainer ended with exit status {exit_status}{odd}" + (f": {said}" if said else "")


def _killed(name: str) -> str:
    if name == "SIGKILL":
        return "the trainer was killed (SIGKILL), most likely by the system because memory ran out; `dmesg` tells"
    return f"the trainer was killed by {name}"
