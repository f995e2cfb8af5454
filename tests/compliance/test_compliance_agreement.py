"""Our rules and our rule file for mlperf_logging's checker say the same of good and broken logs."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.params import load_variant
from compliance.check import check_paths
from compliance.findings import ERROR
from compliance.rule_file import RULE_FILE, in_step
from tests.support.log_mutations import GOOD, MUTATIONS, randomly_edited, with_resumed
from tests.support.logs import FakeRun, written


def ours_accept(path: Path) -> bool:
    return all(finding.severity != ERROR for verdict in check_paths([path]) for finding in verdict.findings)


def theirs_accept(path: Path) -> bool:
    """mlperf_logging's verdict with our rule file; its stop with a traceback is a refusal, as on the command line."""
    from mlperf_logging.compliance_checker import mlp_compliance

    mlp_compliance.enqueued_configs.clear()
    checker = mlp_compliance.make_checker("training", "5.1.0", False, False)
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [logging.NullHandler()]
    try:
        return mlp_compliance.main(str(path), str(RULE_FILE), checker)[0]
    except Exception:
        return False
    finally:
        root.handlers = handlers


GOOD_RUNS = {
    "mini": FakeRun(),
    "another seed": FakeRun(seed=0),
    "open": FakeRun(params=load_variant("librispeech_open"), train_samples=1000, eval_samples=5567),
    "librispeech": FakeRun(params=load_variant("librispeech"), train_samples=281_241, eval_samples=5567),
    "synthetic": FakeRun(params=load_variant("synthetic"), train_samples=23_401, eval_samples=2_025),
    "one epoch": FakeRun(word_edits=(3,)),
    "ten epochs": FakeRun(word_edits=(1290, 1200, 1100, 1000, 900, 800, 700, 600, 500, 299)),
    "exactly the target": FakeRun(word_edits=(1290, 299)),
    "without a single error": FakeRun(word_edits=(0,)),
    "two processes": FakeRun(processes=2),
    "caches not emptied": FakeRun(cache_clear=False),
}
BAD_RUNS = {
    "target missed": FakeRun(word_edits=(1290, 1200)),
    "trained on": FakeRun(word_edits=(1290, 200, 100)),
    "eleven epochs": FakeRun(word_edits=(*[1290 - n for n in range(10)], 250)),
    "a part of LibriSpeech": FakeRun(params=load_variant("librispeech"), train_samples=28_539, eval_samples=5567),
    "half an evaluation set": FakeRun(params=load_variant("librispeech_open"), eval_samples=2703),
    "a few hours of synthetic": FakeRun(params=load_variant("synthetic"), train_samples=878, eval_samples=2_025),
    "half of synthetic's evaluation": FakeRun(
        params=load_variant("synthetic"), train_samples=23_401, eval_samples=1_000
    ),
    "no digest": FakeRun(tree_sha256="0"),
    "no submitter": FakeRun(org=""),
}


@pytest.mark.parametrize("run", GOOD_RUNS.values(), ids=GOOD_RUNS.keys())
def test_both_accept_good_runs(run, tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text(run.text())
    assert ours_accept(path) and theirs_accept(path)


def test_both_accept_a_resumed_run(tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_bytes(written(with_resumed(GOOD, "epoch_start", 2, value=2)))
    assert ours_accept(path) and theirs_accept(path)


@pytest.mark.parametrize("run", BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_both_refuse_bad_runs(run, tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text(run.text())
    assert not ours_accept(path) and not theirs_accept(path)


@pytest.mark.parametrize("edit", [m[1] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS])
def test_both_refuse_every_mutation(edit, tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_bytes(written(edit(list(GOOD))))
    assert not ours_accept(path)
    assert not theirs_accept(path)


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 60))])
def test_both_say_the_same_of_random_edits(seed, tmp_path):
    chance = random.Random(seed)
    path = tmp_path / "result_0.txt"
    verdicts = []
    for number in range(40):
        lines = randomly_edited(GOOD, chance)
        path.write_bytes(written(lines))
        verdicts.append(ours_accept(path))
        assert theirs_accept(path) == verdicts[-1], f"edit {number} of seed {seed}"
    assert True in verdicts and False in verdicts


def test_the_checkers_own_command_takes_the_rule_file(tmp_path):
    path, cut = tmp_path / "good.txt", tmp_path / "cut.txt"
    path.write_bytes(written(GOOD))
    cut.write_bytes(written(GOOD[:-4]))
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--ruleset", "5.1.0", "--config", RULE_FILE]
    command += ["--log_output", tmp_path / "out.log"]
    assert subprocess.run([*command, path], capture_output=True, cwd=tmp_path).returncode == 0
    assert subprocess.run([*command, cut], capture_output=True, cwd=tmp_path).returncode == 1


def test_the_rule_file_is_in_step_with_variants_and_corpora():
    text = RULE_FILE.read_text(encoding="utf-8")
    assert in_step(text) == text, "run `python -m compliance.rule_file` and commit"
