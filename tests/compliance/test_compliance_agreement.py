"""Our rules and our rule file for mlperf_logging's checker agree on valid and invalid logs."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mlperf_logging.compliance_checker import mlp_compliance

from benchmark import mllog
from benchmark.params import load_variant
from compliance.check import check_paths
from compliance.findings import ERROR
from compliance.rule_file import RULE_FILE, with_current_table
from tests.support.log_mutations import MUTATIONS, VALID_LOG, randomly_edited, with_resumed
from tests.support.logs import FakeRun, at, fields_of, line_of, places, written


@cache
def parsed(name: str) -> object:
    return yaml.load(Path(name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


@pytest.fixture(autouse=True)
def parse_the_rule_file_once(monkeypatch):
    """The checker parses its rule file again for every log, which takes five times as long as the check itself."""
    reader = SimpleNamespace(load=lambda file, Loader: parsed(file.name), BaseLoader=yaml.BaseLoader)
    monkeypatch.setattr(mlp_compliance, "yaml", reader)


def ours_accept(path: Path) -> bool:
    return all(finding.severity != ERROR for verdict in check_paths([path]) for finding in verdict.findings)


def theirs_accept(path: Path) -> bool:
    """mlperf_logging's result with our rule file; a traceback is a refusal, as on the command line."""
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


VALID_RUNS = {
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
INVALID_RUNS = {
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


@pytest.mark.parametrize("run", VALID_RUNS.values(), ids=VALID_RUNS.keys())
def test_both_accept_valid_runs(run, tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text(run.text())
    assert ours_accept(path) and theirs_accept(path)


def test_both_accept_a_resumed_run(tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_bytes(written(with_resumed(VALID_LOG, "epoch_start", 2, value=2)))
    assert ours_accept(path) and theirs_accept(path)


def test_both_accept_the_number_of_cpu_threads_which_older_logs_lack(tmp_path):
    place = at(VALID_LOG, "init_stop")
    changes = {"key": mllog.CPU_THREADS, "value": 8, "event_type": "POINT_IN_TIME"}
    fields = fields_of(VALID_LOG[place]) | changes
    assert not places(VALID_LOG, mllog.CPU_THREADS)
    path = tmp_path / "result_0.txt"
    path.write_bytes(written([*VALID_LOG[:place], line_of(fields), *VALID_LOG[place:]]))
    assert ours_accept(path) and theirs_accept(path)


@pytest.mark.parametrize("run", INVALID_RUNS.values(), ids=INVALID_RUNS.keys())
def test_both_refuse_invalid_runs(run, tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text(run.text())
    assert not ours_accept(path) and not theirs_accept(path)


def test_both_refuse_every_mutation(tmp_path):
    path = tmp_path / "result_0.txt"
    accepted = []
    for name, edit, *_ in MUTATIONS:
        path.write_bytes(written(edit(list(VALID_LOG))))
        accepted += [(name, "ours")] * ours_accept(path) + [(name, "theirs")] * theirs_accept(path)
    assert accepted == []


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 60))])
def test_both_agree_on_random_edits(seed, tmp_path):
    chance = random.Random(seed)
    path = tmp_path / "result_0.txt"
    verdicts = []
    for number in range(25):
        lines = randomly_edited(VALID_LOG, chance)
        path.write_bytes(written(lines))
        verdicts.append(ours_accept(path))
        assert theirs_accept(path) == verdicts[-1], f"edit {number} of seed {seed}"
    assert True in verdicts and False in verdicts


def test_the_checkers_own_command_accepts_the_rule_file(tmp_path):
    path, cut = tmp_path / "good.txt", tmp_path / "cut.txt"
    path.write_bytes(written(VALID_LOG))
    cut.write_bytes(written(VALID_LOG[:-4]))
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--ruleset", "5.1.0", "--config", RULE_FILE]
    command += ["--log_output", tmp_path / "out.log"]
    assert subprocess.run([*command, path], capture_output=True, cwd=tmp_path).returncode == 0
    assert subprocess.run([*command, cut], capture_output=True, cwd=tmp_path).returncode == 1


def test_the_rule_file_is_up_to_date_with_variants_and_corpora():
    text = RULE_FILE.read_text(encoding="utf-8")
    assert with_current_table(text) == text, "run `python -m compliance.rule_file` and commit"
