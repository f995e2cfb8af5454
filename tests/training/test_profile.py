"""`--profile`: a whole training with it leaves a breakdown of every stage and a trace, and trains the same."""

from __future__ import annotations

import gzip

import orjson
import pytest

from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.training_state import load_checkpoint
from reference_model.training import profiler
from reference_model.training.profiler import PER_EPOCH, PER_STEP, WARM_UP
from tests.support.corpus import tiny_corpus
from tests.support.training import arguments, train

TRACED, STEPS = 2, 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    corpus = tiny_corpus(folder / "tiny", train=4 * STEPS)

    def start(name: str, *options: str):
        done = train(arguments(corpus.folder, folder / name, *options, train__max_epochs=1))
        assert done.status == 1, done.stderr
        return folder / name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiler, "TRACED", TRACED)
        return start("profiled", "--profile"), start("plain")


def test_the_breakdown_names_every_stage_with_a_share(run):
    text = (run[0] / "profile.txt").read_text()
    shares = {}
    for name in PER_STEP:
        (line,) = (line for line in text.splitlines() if line.strip().startswith(name))
        shares[name] = float(line.split("%")[0].split()[-1])
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert shares["backward"] > 0
    assert all(name in text for name in PER_EPOCH)
    assert f"{STEPS - WARM_UP - TRACED} steps" in text and len(text.splitlines()) < 24


def test_the_trace_holds_the_stages_of_the_traced_steps(run):
    with gzip.open(run[0] / "profile.json.gz") as file:
        names = [event.get("name") for event in orjson.loads(file.read())["traceEvents"]]
    assert names.count("forward") >= TRACED


def test_a_profiled_training_is_the_same_training(run):
    profiled, plain = (load_checkpoint(checkpoint_path(each, 1)).model for each in run)
    assert all(profiled[name].equal(plain[name]) for name in plain)
    assert not (run[1] / "profile.txt").exists()
