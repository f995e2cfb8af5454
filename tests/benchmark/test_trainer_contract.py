"""The trainer contract: the code, docs/trainer.md and the checker agree, and a plain trainer fulfils it."""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import mllog, trainer_contract
from benchmark.harness.outcome import outcome
from benchmark.harness.run_log import RunLog
from benchmark.log_summary import summarise
from benchmark.mllog import parse_line, read_log
from benchmark.params import load_variant
from benchmark.record import read_record
from benchmark.trainer_contract import ProgressLine, checkpoint_of, checkpoints, missing_from, read_progress
from common.errors import UserError
from compliance.log_rules import EDGE, INIT, KEYS, RUN
from tests.conftest import ROOT
from tests.support import fake_trainer
from tests.support.harness import Bench, Finished, finish, keys, make_dataset, wait_for
from tests.support.logs import FakeRun

EXAMPLE = "examples.plain_trainer"


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def own_module(bench: Bench) -> dict[str, str]:
    """The environment in which the trainer's process imports modules from the bench's folder."""
    return {"PYTHONPATH": f"{ROOT}:{bench.folder}"}


# ---------------------------------------------------------------------------------------------------------------------
# The documentation and the checker agree with the code

PAGE = (ROOT / trainer_contract.PAGE).read_text(encoding="utf-8")


def rows(first_cell: str) -> list[list[str]]:
    """The rows of the page's table whose first heading is `first_cell`, without marks of code."""
    (table,) = (part for part in PAGE.split("\n\n") if part.startswith(f"| {first_cell} |"))
    return [[cell.strip().strip("`") for cell in line.split(" | ")] for line in table.splitlines()[2:]]


def cells(first_cell: str, column: int = 0) -> list[str]:
    return [row[column].strip("|` ") for row in rows(first_cell)]


def test_the_page_lists_every_event_in_order_and_how_it_is_written():
    assert tuple(cells("event")) == trainer_contract.EVENTS
    for event, written_by in zip(cells("event"), cells("event", 1), strict=True):
        started, ended = event in trainer_contract.STARTS, event in trainer_contract.ENDS
        assert written_by == ("start" if started else "end" if ended else "event")
    of_epochs = [event for event, when in zip(cells("event"), cells("event", 2), strict=True) if "each epoch" in when]
    assert tuple(of_epochs) == trainer_contract.EPOCH_EVENTS


def test_the_page_lists_every_option_variable_and_exit_status():
    parser = trainer_contract.argument_parser("trainer")
    assert cells("option") == [each.option_strings[0] for each in parser._actions if each.dest != "help"]
    assert cells("variable") == list(trainer_contract.variables({}))
    assert dict(zip(cells("exit status"), cells("exit status", 1), strict=True)) == {
        str(status): meaning for status, meaning in trainer_contract.EXIT_STATUSES.items()
    }
    assert f"`{trainer_contract.TARGET_MISSED}`" in PAGE
    (line,) = re.findall(r"^    (:::PROGRESS .*)$", PAGE, re.MULTILINE)
    assert read_progress(line.encode()) == ProgressLine("train", 1, 320, 1760, "utterances", "loss 31.2")


def test_the_checker_wants_those_events_and_no_others_of_a_trainer():
    of_trainers = [key for key in KEYS if key.required and key.phase in (EDGE, INIT, RUN)]
    assert tuple(key.name for key in of_trainers) == trainer_contract.EVENTS
    assert tuple(key.name for key in of_trainers if key.each_epoch) == trainer_contract.EPOCH_EVENTS


# ---------------------------------------------------------------------------------------------------------------------
# Its parts


def test_a_parser_reads_what_the_harness_writes():
    options = {"params": Path("p.yaml"), "data": Path("d"), "run_dir": Path("r"), "seed": 7, "device": "cpu"}
    parser = trainer_contract.argument_parser("trainer")
    for resume in (None, Path("r/checkpoints/epoch_03")):
        command = trainer_contract.command_line(**options, resume=resume)
        assert vars(parser.parse_args(command)) == options | {"resume": resume, "progress": "events"}


def test_progress_is_read_as_it_was_printed(capfd):
    line = ProgressLine("train", 2, 3, 6, note="loss 3\n")
    line.print()
    (raw,) = capfd.readouterr().out.splitlines()
    assert read_progress(raw.encode()) == line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{broken",
        "[]",
        '{"phase": "train", "epoch": 1, "done": 1}',
        '{"phase": 1, "epoch": 1, "done": "x", "total": 2}',
    ],
)
def test_a_line_that_is_not_progress_is_none(text):
    assert read_progress(f":::PROGRESS {text}".encode()) is None
    assert read_progress(text.encode()) is None


def test_a_checkpoint_is_a_file_or_a_folder_of_any_suffix(tmp_path):
    folder = tmp_path / "checkpoints"
    assert checkpoints(tmp_path) == {} and checkpoint_of(tmp_path, 1) is None
    for name in ("epoch_01", "epoch_02.orbax", ".epoch_04.npz.part", "epoch_5", "epoch_06_rank0.npz", "epoch_00.pt"):
        (folder / name).mkdir(parents=True)
    for name in ("epoch_03.tar.gz", "epoch_10.npz", "epoch_123.pt", "notes.txt"):
        (folder / name).touch()
    assert sorted(checkpoints(tmp_path)) == [1, 2, 3, 10, 123]
    assert sorted(checkpoints(tmp_path, ".pt")) == [123]
    assert checkpoint_of(tmp_path, 2) == folder / "epoch_02.orbax" and checkpoint_of(tmp_path, 4) is None
    for epoch in (1, 10):
        assert trainer_contract.checkpoint_path(tmp_path, epoch).name == f"epoch_{epoch:02d}"


def test_two_checkpoints_of_an_epoch_are_refused(tmp_path):
    for suffix in (".pt", ".safetensors", ".json"):
        trainer_contract.save_checkpoint(tmp_path, 2, suffix, b"state")
    assert checkpoint_of(tmp_path, 2).suffix == ".pt"
    trainer_contract.save_checkpoint(tmp_path, 3, ".onnx", b"network")
    assert checkpoint_of(tmp_path, 3) is None, "exported from a checkpoint that is gone"
    trainer_contract.save_checkpoint(tmp_path, 2, ".npz", b"state")
    with pytest.raises(UserError, match=r"epoch 2 has several checkpoints \(epoch_02.npz, epoch_02.pt\)"):
        checkpoint_of(tmp_path, 2)


def without(key: str, epoch: int | None = None) -> list[mllog.Event]:
    events = [parse_line(line.encode()) for line in FakeRun().write()]
    return [event for event in events if event.key != key or (epoch and event.epoch_num != epoch)]


def test_a_log_that_lacks_nothing():
    assert missing_from(summarise(without("opt_name"))) is None, "the checker's task"
    assert missing_from(summarise(without(""))) is None


@pytest.mark.parametrize(
    ("events", "what"),
    [
        ([], "no run_start"),
        (without("run_start"), "no run_start"),
        (without("eval_accuracy"), "no eval_accuracy for epoch 1"),
        (without("eval_accuracy", 2), "no eval_accuracy for epoch 2"),
        (without("run_stop"), "no run_stop"),
        (
            [each._replace(metadata={}) if each.key == "run_stop" else each for each in without("")],
            "no status success or aborted with run_stop",
        ),
        (
            [each._replace(metadata={}) if each.key == "eval_accuracy" else each for each in without("")],
            "no whole number from 1 as epoch_num with eval_accuracy",
        ),
        (
            [each._replace(value=True) if each.key == "eval_accuracy" else each for each in without("")],
            "no number as eval_accuracy for epoch 1",
        ),
    ],
)
def test_what_a_log_lacks_is_named(events, what):
    assert missing_from(summarise(events)) == what


# ---------------------------------------------------------------------------------------------------------------------
# Trainers that violate the contract

SUCCESS_ALONE = """
from benchmark.mllog import LogWriter
from benchmark.trainer_contract import log_end, print_line
log = LogWriter(print_line)
log.start("run_start")
log.start("epoch_start", epoch_num=1)
log_end(log, reached=True, trained_samples=6, epoch=1)
"""
NO_START = "the trainer logged no run_start: see docs/trainer.md"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", NO_START),
        ("print('Epoch 1/10 loss 3.2')", NO_START),
        ("import sys; print('no data', file=sys.stderr)", f"{NO_START} (its last line on stderr: no data)"),
        (SUCCESS_ALONE, "the trainer logged no eval_accuracy for epoch 1: see docs/trainer.md"),
        (None, "the trainer could not be started: No module named wrong (--trainer-module)"),
    ],
)
def test_what_a_wrong_trainer_lacks_is_reported(bench, source, reason):
    if source is not None:
        (bench.folder / "wrong.py").write_text(source)
    done = bench.run(trainer="wrong", env=own_module(bench))
    assert (done.status, done.last_line) == (2, f"error: {reason}")
    assert (bench.record().status, bench.record().reason) == ("failed", reason)
    assert "Epoch 1/10" not in done.stdout


@pytest.mark.parametrize(
    ("exit_status", "dropped", "errors", "expected"),
    [
        (0, "run_stop", [], "the trainer logged no run_stop: see docs/trainer.md"),
        (0, "run_stop", ["error: minor", "LostError: minor"], ".* no run_stop: .*stderr: LostError: minor.*"),
        (1, "run_start", [], NO_START),
        (1, "run_start", ["error: the disk is full"], "the disk is full"),
        (1, "run_start", ["ImportError: no jax"], "the trainer crashed: ImportError: no jax"),
        (1, None, [], "exit status 1, but run_stop says success: see docs/trainer.md"),
        (2, "run_start", ["t.py: error: no such option"], ".*exit status 2 .*: t.py: error: no such option.*"),
        (3, None, [], "the trainer ended with exit status 3"),
        (-9, "run_start", [], ".* killed .*"),
    ],
)
def test_a_crash_is_reported_before_what_the_log_lacks(tmp_path, exit_status, dropped, errors, expected):
    status, reason = outcome(exit_status, logged(tmp_path, dropped), errors, target_wer=23.0, log_decides=False)
    assert status == "failed" and re.fullmatch(expected, reason)


def test_a_reached_target_that_the_trainer_calls_missed_is_a_failure(tmp_path):
    log = logged(tmp_path, "run_stop")
    mllog.LogWriter(log.sink).end("run_stop", status="aborted", epoch_num=4)
    status, reason = outcome(1, log, [], target_wer=23.0, log_decides=False)
    assert (status, reason.split(",")[0]) == ("failed", "the trainer reports that the target was missed")


def test_a_reason_in_the_log_is_the_runs_reason(tmp_path):
    log = logged(tmp_path, None)
    mllog.LogWriter(log.sink).event("run_aborted_reason", "no more data")
    expected = ("failed", "the trainer ended early: no more data")
    assert outcome(2, log, [], target_wer=23.0, log_decides=False) == expected


def logged(folder: Path, dropped: str | None) -> RunLog:
    (folder / "result.txt").touch()
    log = RunLog(folder / "result.txt", to_stdout=False)
    for line in FakeRun().write():
        if f'"{dropped}"' not in line:
            log.sink(line)
    return log


# ---------------------------------------------------------------------------------------------------------------------
# The tests' fake trainer has its own code for the contract


def test_the_fake_trainer_accepts_exactly_the_contracts_options(monkeypatch, capsys):
    actions = trainer_contract.argument_parser("trainer")._actions
    assert {name for action in actions for name in action.option_strings} - {"-h", "--help"} == fake_trainer.OPTIONS
    monkeypatch.setattr(sys, "argv", ["trainer", "--parameters", "tiny.yaml"])
    assert fake_trainer.main() == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --parameters\n"


def test_the_fake_trainers_log_lines_are_those_of_the_log_writer(capfd):
    expected: list[str] = []
    for log in (fake_trainer.Log(silent=False), mllog.LogWriter(expected.append)):
        log.start("epoch_start", epoch_num=1)
        log.event("hyperparameters", {"model.rnn_layers": 3, "train.target_wer": 23.5, "data.noise": None})
        log.end("run_stop", status="aborted", epoch_num=1)
    printed = capfd.readouterr().out.splitlines()
    assert [without_origin(line) for line in printed] == [without_origin(line) for line in expected]


def without_origin(line: str) -> tuple[str, list[tuple[str, object]]]:
    """The token and the fields in order, without the time and the source line of the call."""
    token, brace, text = line.partition("{")
    fields = json.loads(brace + text)
    assert fields.pop("time_ms").__class__ is int
    for name in ("file", "lineno"):
        fields["metadata"].pop(name, None)
    return token, list(fields.items())


@pytest.mark.parametrize("variant", ["mini", "librispeech"])
def test_the_fake_trainer_reads_the_parameters_that_the_harness_writes(tmp_path, variant):
    params = load_variant(variant)
    (tmp_path / "params.yaml").write_text(params.dump())
    assert fake_trainer.read_params(str(tmp_path / "params.yaml")) == params.flat()


# ---------------------------------------------------------------------------------------------------------------------
# A trainer that fulfils the contract

PAUSED = f"""
import runpy, time
from pathlib import Path
from benchmark.trainer_contract import ProgressLine

def print_and_pause(line, original=ProgressLine.print):
    original(line)
    if line.epoch == 2 and not Path("ready").exists():
        Path("ready").touch()
        time.sleep(600)

ProgressLine.print = print_and_pause
runpy.run_module("{EXAMPLE}", run_name="__main__", alter_sys=True)
"""


def test_the_plain_trainer_is_timed_interrupted_resumed_and_compliant(bench):
    # Long enough for the telemetry, which samples once a second, to be part of the log.
    make_dataset(bench.folder / "data", "longer", lasting_s=15.0)
    bench.params.write_text(bench.params.read_text().replace("folder: tiny", "folder: longer"))
    (bench.folder / "paused.py").write_text(PAUSED)
    variables = own_module(bench) | {"SUBMISSION_DIVISION": "open"}
    process = bench.start(trainer="paused", env=variables)
    wait_for(lambda: (bench.folder / "ready").exists() or process.poll() is not None)
    stopped = finish(process, signal.SIGTERM)
    assert stopped.last_line == "error: interrupted by SIGTERM"
    (folder,) = bench.folders()

    # Without the option, the run resumes with its own trainer.
    done = bench.run("--resume", str(folder), trainer=None, env=own_module(bench))
    assert done.status == 0, done.stderr
    assert " -m compliance " in done.last_line
    record = read_record(folder)
    assert record.trainer == "paused"
    assert (record.status, record.run.resumed_epochs, record.run.epochs) == ("success", (1,), 2)
    logged = keys(done.stdout)
    begin, end = logged.index("init_start"), logged.index("run_stop")
    before, epoch = trainer_contract.EVENTS[: -2 - len(trainer_contract.EPOCH_EVENTS)], trainer_contract.EPOCH_EVENTS
    assert logged[begin : end + 1] == [*before, *epoch, "resumed", *epoch, "trained_samples", "run_stop"]
    assert [event.value for event in read_log(folder / "result.txt")[0] if event.key == "eval_accuracy"] == [50.0, 0.0]

    checked = compliance(folder)
    assert checked.status == 0, checked.stdout
    assert " 0 errors" in checked.stdout


def compliance(folder: Path) -> Finished:
    command = [sys.executable, "-m", "compliance", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return Finished(done.returncode, done.stdout, done.stderr)


def test_the_plain_trainer_may_miss_the_target(bench):
    bench.params.write_text(bench.params.read_text().replace("max_epochs: 5", "max_epochs: 1"))
    done = bench.run(trainer=EXAMPLE)
    assert done.status == 1, done.stderr
    assert bench.record().status == "aborted"


def test_the_plain_trainer_ends_at_once_if_the_resumed_epoch_had_reached_the_target(bench):
    trainer_contract.save_checkpoint(bench.folder, 2, ".txt", b"[2, 0.0]")
    options = trainer_contract.command_line(
        params=bench.params, data=bench.folder / "data" / "tiny", run_dir=bench.folder, seed=1, device="cpu",
        resume=checkpoint_of(bench.folder, 2),
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-m", EXAMPLE, *options], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, keys(done.stdout)) == (0, ["resumed", "trained_samples", "run_stop"])


def test_the_plain_trainer_has_forty_lines_at_most():
    source = (ROOT / "examples" / "plain_trainer.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    documented = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef)]
    docstrings = {line for node in documented for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    lines = [text for number, text in enumerate(source.splitlines(), 1) if number not in docstrings and text.strip()]
    assert all(map(ast.get_docstring, documented)) and len(lines) <= 40
