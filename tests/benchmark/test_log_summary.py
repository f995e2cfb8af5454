"""The one interpretation of a log: time, epochs and outcome, for record, comparison and compliance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark import mllog
from benchmark.log_summary import summarise
from benchmark.mllog import Event
from benchmark.record import read_record, write_record
from compliance.check import check_paths
from compliance.convergence import epochs_to_target
from compliance.integrity_rules import RecordedRun, integrity_agreement
from compliance.log import read
from results.reading.discover import find_sources
from results.reading.load import read_run
from tests.support.logs import FakeRun, fields_of, line_of
from tests.support.run_folders import write_run


def event(key: str, time_ms: float, value: object = None, **metadata) -> Event:
    return Event(key, value, metadata, time_ms, "POINT_IN_TIME", "", 0)


def test_epochs_are_read_from_the_log_without_invented_values():
    events = [
        event(mllog.EPOCH_START, 1000, epoch_num=1),
        event(mllog.EPOCH_STOP, 3500, epoch_num=1),
        event(mllog.TRACKED_STATS, 3500, {"train_loss": float("nan"), "utterances_per_s": 12, "x": "y"}, epoch_num=1),
        event(mllog.EVAL_START, 3600, epoch_num=1),
        event(mllog.EVAL_ACCURACY, 4000, 55, epoch_num=1, cer=20.5),
        event(mllog.EVAL_STOP, 4100, epoch_num=1),
        event(mllog.EPOCH_START, 4200, epoch_num=2),
        event(mllog.EVAL_ACCURACY, 5000, "high", epoch_num=2),
        event(mllog.EVAL_ACCURACY, 5000, 3.0),
    ]
    (epoch,) = summarise(events).epochs
    assert (epoch.train_s, epoch.eval_s, epoch.wer, epoch.cer, epoch.mean_wer) == (2.5, 0.5, 55.0, 20.5, None)
    assert (epoch.train_loss, epoch.utterances_per_s, epoch.audio_s_per_s) == (None, 12.0, None)


@pytest.mark.parametrize(
    ("value", "metadata", "metrics"),
    [
        (0.76, {}, {"": 0.76}),
        ("25.33", {}, {"": 25.33}),
        (89.0, {"metric": "FID"}, {"FID": 89.0}),
        ({"BBOX": 0.38, "SEGM": 0.34}, {}, {"BBOX": 0.38, "SEGM": 0.34}),
        ({"accuracy": {"BBOX": 0.38, "SEGM": 0.34}}, {}, {"BBOX": 0.38, "SEGM": 0.34}),
        ([0.38, 0.34], {}, {"0": 0.38, "1": 0.34}),
        ({"BBOX": "nan", "SEGM": 0.34}, {}, {"SEGM": 0.34}),
        (0.76, {"metric": ["FID"]}, {"": 0.76}),
    ],
)
def test_an_evaluation_of_mlperfs_benchmarks_has_one_or_more_metrics(value, metadata, metrics):
    summary = summarise([event("submission_benchmark", 0, "maskrcnn"), event("eval_accuracy", 1, value, **metadata)])
    (evaluation,) = summary.evaluations
    assert evaluation.metrics == metrics and evaluation.value == next(iter(metrics.values()))
    assert summary.unread == []


@pytest.mark.parametrize("value", [None, True, "high", {}, [], {"BBOX": None}, {"a": {"b": {"c": 1}}}, float("inf")])
def test_an_evaluation_without_a_number_is_not_read(value):
    summary = summarise([event("submission_benchmark", 0, "maskrcnn"), event("eval_accuracy", 1, value)])
    assert summary.evaluations == [] and len(summary.unread) == 1


@pytest.mark.parametrize("value", ["55", {"BBOX": 0.38}, [55.0]])
def test_a_score_of_deepspeech2_is_a_number(value):
    summary = summarise([event("submission_benchmark", 0, mllog.BENCHMARK), event("eval_accuracy", 1, value)])
    assert summary.evaluations == [] and len(summary.unread) == 1


CLOCK = [event("init_start", 0), event("init_stop", 400), event("run_start", 1000), event("run_stop", 61_000)]


def test_the_clock_runs_from_the_first_run_start_to_the_first_run_stop():
    summary = summarise(CLOCK)
    assert (summary.init_s, summary.run_s, summary.minutes) == (0.4, 60.0, 1.0)
    later = [event("run_start", 30_000), event("run_start", 70_000), event("run_stop", 121_000)]
    summary = summarise([*CLOCK[:3], later[0], CLOCK[3], *later[1:]])
    assert (summary.run_s, [start.time_ms for start in summary.restarts]) == (60.0, [30_000])
    assert summarise(CLOCK[:3]).run_s is None and summarise([]).init_s is None
    backwards = summarise([event("run_start", 1000), event("run_stop", 900)])
    assert backwards.run_s is None and backwards.minutes is None


def test_other_benchmarks_are_timed_as_by_their_own_summariser():
    from mlperf_logging.result_summarizer.result_summarizer import _query_run_start_stop

    lines = [event("submission_benchmark", 0, "rnnt"), *CLOCK[:3], event("run_start", 30_000), CLOCK[3]]
    summary = summarise(lines)

    class Line:
        def __init__(self, event: Event) -> None:
            self.key, self.timestamp = event.key, event.time_ms

    start_ms, stop_ms = _query_run_start_stop([Line(each) for each in lines])
    assert summary.run_s == (stop_ms - start_ms) / 1000 == 31.0
    assert summarise([*CLOCK[:3], event("run_start", 30_000), CLOCK[3]], "rnnt").run_s == 31.0


def restarted(lines: list[str]) -> list[str]:
    """A second run_start, half-way."""
    first = next(line for line in lines if '"run_start"' in line)
    middle = next(place for place, line in enumerate(lines) if '"epoch_num": 2' in line and '"epoch_start"' in line)
    return [
        *lines[:middle],
        line_of(fields_of(first) | {"time_ms": fields_of(lines[middle])["time_ms"]}),
        *lines[middle:],
    ]


def stopped_again(lines: list[str]) -> list[str]:
    """An earlier run_stop after the second epoch: what comes later was not timed."""
    stop = fields_of(next(line for line in lines if '"run_stop"' in line))
    place = next(place for place, line in enumerate(lines) if '"epoch_num": 2' in line and '"eval_stop"' in line) + 1
    early = stop | {"time_ms": fields_of(lines[place - 1])["time_ms"]}
    early["metadata"] = stop["metadata"] | {"status": "aborted", "epoch_num": 2}
    return [*lines[:place], line_of(early), *lines[place:]]


def out_of_order(lines: list[str]) -> list[str]:
    """The last epoch has the number 2, and the second one the number 4."""
    swapped = []
    for line in lines:
        fields = fields_of(line)
        number = fields["metadata"].get("epoch_num")
        if fields["key"] not in ("run_stop", "trained_samples") and number in (2, 4):
            fields["metadata"]["epoch_num"] = 6 - number
        swapped.append(line_of(fields))
    return swapped


def evaluated_twice(lines: list[str]) -> list[str]:
    """The last epoch's score is logged twice."""
    place = max(place for place, line in enumerate(lines) if '"eval_accuracy"' in line)
    return [*lines[:place], lines[place], *lines[place:]]


GOOD = {"verdict": "success", "epochs": 4, "final": 100 * 250 / 1300, "to_target": 4}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (list, GOOD),
        (restarted, GOOD),
        (stopped_again, {"verdict": "aborted", "epochs": 2, "final": 100 * 800 / 1300, "to_target": float("inf")}),
        (out_of_order, GOOD | {"to_target": 2}),
        (evaluated_twice, GOOD | {"epochs": 5}),
    ],
)
def test_record_comparison_and_compliance_agree(tmp_path, change, expected):
    whole = summarise(map(mllog.parse_line, "\n".join(FakeRun().write()).encode().splitlines()))
    folder = write_run(tmp_path / "run", FakeRun(), edit=change)
    record, log = read_record(folder), read(folder / "result.txt")
    (run,) = map(read_run, find_sources([folder]))
    assert record.run.minutes == run.minutes == log.summary.minutes
    assert record.run.minutes == whole.minutes or change is stopped_again
    assert record.status == run.verdict == log.summary.status == expected["verdict"]
    assert record.run.epochs == len(run.evals) == len(log.summary.epochs) == expected["epochs"]
    assert record.run.final_wer == run.last_accuracy == log.summary.final == expected["final"]
    assert epochs_to_target(log) == expected["to_target"]
    assert not list(integrity_agreement(RecordedRun(folder / "record.json", log)))
    broken = {finding.rule for verdict in check_paths([folder]) for finding in verdict.findings}
    assert broken & {"run-telemetry", "run-time", "integrity-agreement", "target-reached"} == set()


def test_a_run_that_failed_in_the_harness_is_not_a_success(tmp_path):
    folder = write_run(tmp_path / "run", FakeRun(), status="failed", reason="exit status 1, but run_stop says success")
    (run,) = map(read_run, find_sources([folder]))
    assert run.verdict == "failed" and "exit status 1, but run_stop says success" in run.problems[-1]


@pytest.mark.parametrize("changes", [{"epochs": ()}, {"epochs": "less"}, {"epochs": "loss"}, {"status": "failed"}])
def test_a_record_that_disagrees_with_the_log_is_detected(tmp_path, changes):
    folder = write_run(tmp_path / "run", FakeRun())
    record = read_record(folder)
    if changes == {"epochs": "less"}:
        changes = {"epochs": record.epochs[:-1]}
    elif changes == {"epochs": "loss"}:
        changes = {"epochs": (replace(record.epochs[0], train_loss=-1.0), *record.epochs[1:])}
    write_record(replace(record, **changes), folder)
    assert list(integrity_agreement(RecordedRun(folder / "record.json", read(folder / "result.txt"))))


def test_a_second_run_start_is_reported_with_the_one_that_counts(tmp_path):
    folder = write_run(tmp_path / "run", FakeRun(), edit=restarted)
    (run,) = map(read_run, find_sources([folder]))
    assert [problem.partition(": ")[2] for problem in run.problems] == [
        "run_start again; the timed region starts at the first one"
    ]
