"""The outcome of a run and its reason in one clause, from the trainer's exit status, its log and its stderr."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from benchmark import mllog, trainer_contract
from benchmark.harness.run_log import RunLog
from benchmark.log_summary import summarise
from benchmark.record import Status
from common.errors import EXIT_FAILED, EXIT_OK

EXIT_STATUS = {"success": EXIT_OK, "aborted": EXIT_FAILED}
"""The harness's own exit status for each status of a run; every other status is EXIT_ERROR."""

_EXCEPTION = re.compile(r"(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?:: .*)?)$")
_NO_MODULE = re.compile(r".*?: ((?:No module named|Error while finding module specification for) .*)$")
"""The interpreter's message if it cannot find the trainer's module."""
_TORCHRUN_SIGNAL = re.compile(r"Signal \d+ \((SIG\w+)\) received by PID")


def outcome(
    exit_status: int, log: RunLog, errors: Sequence[str], *, target_wer: float, log_decides: bool
) -> tuple[Status, str | None]:
    """Status and reason of a run that was not interrupted.

    `exit_status` is the trainer's, negative for a signal; `errors` its last lines on stderr. `log_decides`: the exit
    status carries no information (torchrun's is 1 for any worker's), so only the log decides.
    """
    summary = summarise(log.events)
    lacks, aborted, claimed = trainer_contract.missing_from(summary), log.last(mllog.RUN_ABORTED_REASON), summary.status
    if not lacks:
        if claimed == mllog.SUCCESS and (log_decides or exit_status == EXIT_OK):
            if summary.reaches(target_wer):
                return "success", None
            return (
                "failed",
                f"the trainer claims success, but its last WER is {summary.final}, the target {target_wer:g}",
            )
        if claimed == mllog.ABORTED and aborted is None and (log_decides or exit_status == EXIT_FAILED):
            if summary.reaches(target_wer):
                found = f"its last WER is {summary.final}, the target {target_wer:g}"
                return "failed", f"the trainer reports that the target was missed, but {found}"
            return "aborted", f"WER {target_wer:g} was not reached in {len(summary.evaluations)} epochs"
    if aborted:
        return "failed", _failure(exit_status, errors, f"the trainer ended early: {aborted.value}")
    if exit_status not in (EXIT_OK, EXIT_FAILED):
        return "failed", _failure(exit_status, errors)
    fault = f"the trainer logged {lacks}" if lacks else f"exit status {exit_status}, but run_stop says {claimed}"
    return "failed", _failure(exit_status, errors, f"{fault}: see {trainer_contract.PAGE}")


def follower_outcome(exit_status: int, errors: Sequence[str]) -> tuple[Status, str | None]:
    """The same on a machine whose trainer processes write no log: the first machine's record has the result.

    torchrun's exit status is 0 for a missed target too, so the trainer prints TARGET_MISSED on stderr there.
    """
    if exit_status == EXIT_OK and any(line.startswith(trainer_contract.TARGET_MISSED) for line in errors):
        return "aborted", "the target was not reached: see the record of machine 0"
    if exit_status == EXIT_OK:
        return "success", None
    if exit_status == EXIT_FAILED and not any(line.startswith("error: ") for line in errors):
        return "aborted", "the target was not reached, or a process failed: see the record of machine 0"
    return "failed", _failure(exit_status, errors)


def _failure(exit_status: int, errors: Sequence[str], of_log: str | None = None) -> str:
    """Why the run failed: the trainer's crash, else what is wrong with its log (`of_log`) and its last line on stderr."""
    if exit_status < 0:
        return _killed(signal.Signals(-exit_status).name)
    # A trainer with exit status 0 did not crash, whatever it printed.
    if exit_status != EXIT_OK and (crash := _crash(errors)):
        return crash
    last_line = next((line.strip() for line in reversed(errors) if line.strip()), None)
    suffix = f" (its last line on stderr: {last_line})" if last_line else ""
    return (of_log or f"the trainer ended with exit status {exit_status}") + suffix


def _crash(errors: Sequence[str]) -> str | None:
    """The cause of a crash according to the trainer's stderr; None if there is none."""
    for line in reversed(errors):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    # torchrun ends the others with SIGTERM when one of its processes fails: that signal is not the cause.
    signals = [found[1] for line in errors if (found := _TORCHRUN_SIGNAL.search(line)) and found[1] != "SIGTERM"]
    if signals:
        return _killed(signals[-1])
    for line in reversed(errors):
        found = _EXCEPTION.match(line)
        if found and "ChildFailedError" not in line:
            return f"the trainer crashed: {found[1]}"
    missing = next((found[1] for line in errors if (found := _NO_MODULE.match(line))), None)
    return f"the trainer could not be started: {missing} (--trainer-module)" if missing else None


def _killed(name: str) -> str:
    if name == "SIGKILL":
        return "the trainer was killed (SIGKILL), most likely by the system because memory ran out; see `dmesg`"
    return f"the trainer was killed by {name}"
