"""Progress to target, throughput and outcome of a run, from the log of any published round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlperf_logging.rcp_checker.rcp_checker import read_submission_file

from results import compare, report
from results.comparing.comparison import compare_runs
from results.reading.discover import find_sources
from results.reading.load import read_run
from results.reading.measures import count
from results.reading.run_data import Run
from results.rendering.report_page import page
from tests.support.logs import FakeRun, fields_of, line_of
from tests.support.mlperf_round import build_result
from tests.support.run_folders import FakeMachine, write_run


def run_of(folder: Path, benchmark: str, version: str, lines: list, *, minutes: float = 100.0, **changes) -> Run:
    """One run of a published round with these events between run_start and run_stop."""
    org = folder / f"training_results_v{version}" / "Org"
    build_result(org, [minutes], benchmark=benchmark, lines=lambda _: lines, **changes)
    (run,) = map(read_run, find_sources([org]))
    return run


def official_progress(run: Run, **options) -> float:
    """The progress to target as MLPerf's rcp_checker reads it."""
    assert run.source.round is not None
    return read_submission_file(str(run.log), f"{run.source.round}.0", options.get("bert_train_samples", False))[1]


FID, CLIP = {"metric": "FID"}, {"metric": "CLIP"}


@pytest.mark.parametrize(
    ("benchmark", "version", "metadata", "progress"),
    [
        ("resnet", "3.0", {"epoch_num": 35}, (35, "epochs")),
        ("dlrm_dcnv2", "5.0", {"epoch_num": 0.75}, (0.75, "epochs")),
        ("bert", "3.0", {"epoch_num": 2_550_016}, (2_550_016, "samples")),
        ("unet3d", "3.0", {"epoch_num": 10_000}, (10_000, "epochs")),
        ("unet3d", "4.0", {"epoch_num": 396_480}, (396_480, "samples")),
        ("gpt3", "4.0", {"epoch_num": 1_207_959_552}, (1_207_959_552, "tokens")),
        ("llama31_8b", "5.1", {"epoch_num": 1, "samples_count": 172_032}, (172_032, "samples")),
        ("llama2_70b_lora", "4.1", {"samples_count": 3072}, (3072, "samples")),
    ],
)
def test_progress_to_target_is_in_the_unit_of_the_benchmark(tmp_path, benchmark, version, metadata, progress):
    run = run_of(tmp_path, benchmark, version, [("eval_accuracy", 0.7, metadata)])
    assert (run.progress_to_target, run.progress_unit) == progress
    assert official_progress(run) == run.progress_to_target


@pytest.mark.parametrize(("logged_at", "progress"), [("start", (1, "epochs")), ("end", (3_000_064, "samples"))])
def test_berts_samples_count_only_if_they_are_logged_after_training(tmp_path, logged_at, progress):
    evaluation, samples = ("eval_accuracy", 0.72, {"epoch_num": 1}), ("train_samples", 3_000_064, {})
    lines = [samples, evaluation] if logged_at == "start" else [evaluation, samples]
    run = run_of(tmp_path, "bert", "1.0", lines)
    assert (run.progress_to_target, run.progress_unit) == progress
    assert official_progress(run, bert_train_samples=logged_at == "end") == run.progress_to_target


@pytest.mark.parametrize(
    ("version", "unit", "other"), [("3.1", "step_num", "epoch_num"), ("4.0", "samples_count", "step_num")]
)
def test_the_first_evaluation_with_all_metrics_passed_counts(tmp_path, version, unit, other):
    """FID and CLIP are logged apart from each other, later than the evaluations that they belong to, in any order."""
    scores = [(3000, 85.0, 0.16), (2000, 89.0, 0.15), (1000, 89.0, 0.14), (4000, 95.0, 0.2)]
    lines = [("eval_accuracy", fid, FID | {unit: step, other: 5}) for step, fid, _ in scores]
    lines += [("eval_accuracy", clip, CLIP | {unit: step, other: 5}) for step, _, clip in scores]
    run = run_of(tmp_path, "stable_diffusion", version, lines)
    assert run.progress_to_target == official_progress(run) == 2000
    assert run.progress_unit == {"step_num": "steps", "samples_count": "samples"}[unit]
    assert [accuracy for _, accuracy, _ in run.evals] == [85.0, 89.0, 89.0, 95.0]


def test_a_metric_that_is_missing_does_not_pass(tmp_path):
    run = run_of(tmp_path, "stable_diffusion", "4.0", [("eval_accuracy", 80.0, FID | {"samples_count": 1000})])
    assert run.progress_to_target is None and run.progress_unit is None


def test_only_a_successful_run_has_reached_its_target(tmp_path):
    run = run_of(tmp_path, "resnet", "3.0", [("eval_accuracy", 0.7, {"epoch_num": 35})], status="aborted")
    assert run.progress_to_target is None and run.last_epoch == 35


def test_objects_of_metrics_are_evaluations_without_a_warning(tmp_path):
    lines = [("eval_accuracy", {"BBOX": 0.37 + n / 100, "SEGM": 0.34}, {"epoch_num": 12 + n}) for n in range(2)]
    run = run_of(tmp_path, "maskrcnn", "3.0", lines)
    assert run.problems == [] and run.progress_to_target == 13 and run.last_accuracy == 0.38
    assert [(epoch, box) for epoch, box, _ in run.evals] == [(12, 0.37), (13, 0.38)]


# ---------------------------------------------------------------------------------------------------------------------
# Throughput


WORK = [
    ("resnet", "4.0", {"epoch_num": 35}, 35 * 1_281_167, {"train_samples": 1_281_167}),
    # Both log the steps of an epoch as train_samples.
    ("ssd", "3.0", {"epoch_num": 4}, 4 * 1_170_301, {"train_samples": 4572, "global_batch_size": 256}),
    ("retinanet", "5.1", {"epoch_num": 4}, 4 * 1_170_301, {"train_samples": 4572, "global_batch_size": 256}),
    ("maskrcnn", "3.0", {"epoch_num": 14}, 14 * 117_266, {"train_samples": 40_000}),
    ("dlrm", "2.0", {"epoch_num": 1.95}, 0.95 * 4e9, {"train_samples": 4e9}),
    ("bert", "4.0", {"epoch_num": 2_400_000}, 2.4e6, {"train_samples": 2_400_000}),
    ("llama2_70b_lora", "5.0", {"samples_count": 3072}, 3072, {"train_samples": 3901}),
    ("stable_diffusion", "3.1", FID | {"step_num": 5000}, 5000 * 512, {"global_batch_size": 512}),
]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(WORK),
    st.integers(4, 5000),
    st.booleans(),
    st.floats(1.0, 1.3),
    st.floats(0.1, 10_000.0),
)
@example(WORK[0], 64, True, 1.0, 102.0)
def test_throughput_is_the_total_whichever_is_logged(tmp_path_factory, work, accelerators, each, overhead, minutes):
    """`overhead`: the run's time over that of training alone."""
    benchmark, version, metadata, samples, logged = work
    minutes = max(minutes, 0.1)
    total = samples / (minutes * 60) * overhead
    rate = total / accelerators if each else total
    lines = [("tracked_stats", {"throughput": rate}, {"step": 1}), ("eval_accuracy", 0.7, metadata)]
    run = run_of(
        tmp_path_factory.mktemp("round"),
        benchmark,
        version,
        lines,
        minutes=minutes,
        logged=logged,
        description={"number_of_nodes": "1", "accelerators_per_node": str(accelerators)},
    )
    assert run.samples_per_s == pytest.approx(total, rel=0.001)
    expected = [f"throughput is logged per accelerator: multiplied by {accelerators:,}"] if each else []
    assert [note for note in run.notes if "throughput" in note] == expected


@pytest.mark.parametrize(
    ("benchmark", "rate", "metadata", "why"),
    [
        ("resnet", 5.0, {"epoch_num": 35}, "neither the total samples per second nor those of one accelerator"),
        ("resnet", 0, {"epoch_num": 35}, "the log does not say what it counts"),
        ("resnet", 7473.0, {}, "the log does not say what it counts"),
        ("minigo", 0.02, {"epoch_num": 35}, "the log does not say what it counts"),
        ("gpt3", 313_000.0, {"epoch_num": 1_207_959_552}, "it is logged in tokens/s"),
    ],
)
def test_a_throughput_of_unknown_meaning_is_left_out_with_a_note(tmp_path, benchmark, rate, metadata, why):
    logged = {} if benchmark == "minigo" else {"train_samples": 1_281_167}
    lines = [("tracked_stats", {"throughput": rate}, {}), ("eval_accuracy", 0.7, metadata)]
    run = run_of(tmp_path, benchmark, "4.0", lines, logged=logged)
    assert run.samples_per_s is None
    assert why in next(note for note in run.notes if note.startswith("throughput left out: "))


# ---------------------------------------------------------------------------------------------------------------------
# Outcome, and numbers that no run has


@pytest.mark.parametrize("milliseconds", [0, 1])
def test_a_run_of_no_time_is_failed_and_one_of_a_millisecond_is_not(tmp_path, milliseconds, capsys):
    def stopped_early(lines: list[str]) -> list[str]:
        start = next(fields_of(line)["time_ms"] for line in lines if '"run_start"' in line)
        return [
            line_of(fields_of(line) | {"time_ms": start + milliseconds}) if '"run_stop"' in line else line
            for line in lines
        ]

    write_run(tmp_path / "a" / "run", FakeRun(), FakeMachine("box-a"))
    folder = write_run(tmp_path / "b" / "run", FakeRun(seed=5), FakeMachine("box-b"), edit=stopped_early)
    (run,) = map(read_run, find_sources([folder]))
    if milliseconds:
        assert (run.verdict, run.minutes) == ("success", milliseconds / 60_000)
    else:
        assert (run.verdict, run.minutes) == ("failed", None)
        assert any("run_stop has the time of run_start: counts as a failed run" in each for each in run.problems)
    for baseline in ("box-a", "box-b"):
        assert compare.main([str(tmp_path), "--baseline", baseline, "--format", "json"]) == 0
        ranks = {row["system"]: row["rank"] for row in json.loads(capsys.readouterr().out)["rows"]}
        assert ranks == ({"box-a": 2, "box-b": 1} if milliseconds else {"box-a": 1, "box-b": None})
        html = tmp_path / "page.html"
        assert report.main([str(tmp_path), "--baseline", baseline, "--html", str(html)]) == 0
        assert "</html>" in html.read_text()


def test_a_stop_without_status_is_reported(tmp_path):
    run = run_of(tmp_path, "resnet", "3.0", [], status="")
    assert run.verdict == "failed" and "run_stop has no status: counts as a failed run" in run.problems[-1]


ABSURD = [
    0,
    -1,
    5e-324,
    1e-310,
    -1e308,
    1.7e308,
    2**63,
    2**64 - 1,
    "NaN",
    "Infinity",
    "-1e400",
    "1e308",
    None,
    True,
    [1e308],
]
NUMBERS = st.sampled_from(ABSURD)
FIELDS = {
    "eval_accuracy": ("value", "epoch_num", "samples_count", "step_num"),
    "tracked_stats": ("throughput", "train_s", "utterances_per_s", "audio_s_per_s", "data_wait_s"),
    "epoch_start": ("epoch_num", "time_ms"),
    "run_stop": ("time_ms",),
    "run_start": ("time_ms",),
    "train_samples": ("value",),
    "global_batch_size": ("value",),
    "target_wer": ("value",),
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["deepspeech2", "resnet", "stable_diffusion", "bert", "gpt3", "dlrm", "rnnt", "ssd"]),
    st.dictionaries(
        st.sampled_from([(key, name) for key, names in FIELDS.items() for name in names]), NUMBERS, max_size=5
    ),
)
def test_absurd_numbers_are_read_compared_and_drawn(tmp_path_factory, benchmark, changes):
    folder = tmp_path_factory.mktemp("absurd")
    lines = []
    for line in FakeRun().write():
        fields = fields_of(line)
        if fields["key"] == "submission_benchmark":
            fields["value"] = benchmark
        for (key, name), value in changes.items():
            if key == fields["key"]:
                place = fields if name in fields else fields["value" if key == "tracked_stats" else "metadata"]
                place[name] = value
        lines.append(line_of(fields))
    (folder / "result.txt").write_text("".join(line + "\n" for line in lines))
    (run,) = map(read_run, find_sources([folder]))
    assert run.minutes is None or run.minutes > 0
    assert "</html>" in page(compare_runs([run], baseline=None), "title")


@given(st.integers(0, 10**9))
def test_a_count_is_read_in_every_spelling(number):
    for spelled in (number, float(number), str(number), f" {number} ", f"{number}.0", f"{number:,}", f" {number:,}"):
        assert count(spelled) == number, spelled


@pytest.mark.parametrize("value", ["1,28", "1,2345", ",128", "82.944,0", "8 x 4", "-1", "1.5", "", None, True, [8]])
def test_what_is_no_count_is_unknown(value):
    assert count(value) is None
