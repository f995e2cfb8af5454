"""The whole path: archives on a server, real words spoken by a synthesiser, downloaded, verified, trained on."""

import io
import os
import subprocess
from pathlib import Path

import soundfile
import yaml

from benchmark.mllog import read_log
from datasets.audio import to_16k
from datasets.synthesis import voices
from tests.support.http_server import serve
from tests.support.libri_archives import build, real_chapters, write_table

ROOT = Path(__file__).resolve().parents[2]


def test_from_download_to_a_timed_run(tmp_path: Path):
    with voices.Synthesiser(voices.draw_speaker("1", "story"), 1) as synthesiser:

        def speak(utterance: str, words: str) -> bytes:
            out = io.BytesIO()
            soundfile.write(out, to_16k(synthesiser.say(words) / 32768, synthesiser.rate_hz), 16_000, format="FLAC")
            return out.getvalue()

        archives = [
            build(tmp_path / "shelf", name, [(c, lines[:20]) for c, lines in real_chapters(2, offset)], audio=speak)
            for name, offset in (("train-clean-100", 0), ("dev-clean", 4), ("test-clean", 8))
        ]
    environment = os.environ | {
        "DATA_DIR": str(tmp_path / "data"), "RESULTS_DIR": str(tmp_path / "runs"),
        "DEVICE": "cpu", "SEED": "5", "DROP_CACHES": "0",
    }  # fmt: skip

    def sh(*line: object) -> subprocess.CompletedProcess:
        return subprocess.run(["sh", *map(str, line)], cwd=ROOT, env=environment, capture_output=True, text=True)

    with serve(tmp_path / "shelf") as server:
        server.faults.cut_after = [50_000, 100_000]
        table = write_table(archives, tmp_path / "table.json")
        done = sh("script/download_dataset.sh", "clean_small", "--table", table, "--base-url", server.url, "--deep")
    assert done.returncode == 0, done.stderr
    done = sh("verify_dataset.sh")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Dataset Checksum Passed.\n")

    params = yaml.safe_load((ROOT / "benchmark/variants/mini.yaml").read_text())
    params["variant"] = "libri_small"
    params["data"]["folder"] = "LibriSpeech_dataset"
    params["model"] |= {"conv_channels": 2, "rnn_hidden": 16, "rnn_layers": 1, "batch_norm_between": False}
    params["train"] |= {"max_epochs": 1, "batch_size": 4, "eval_batch_size": 8}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = sh("run_and_time.sh", "--params", tmp_path / "params.yaml")
    assert done.returncode == 1, done.stderr  # one epoch of a tiny network does not reach the target
    (result,) = (tmp_path / "runs").rglob("result.txt")
    events = {event.key: event for event in read_log(result)[0]}
    assert events["run_stop"].metadata["status"] == "aborted"
    assert events["train_samples"].value == archives[0].utterances
    assert events["eval_samples"].value == archives[1].utterances
    assert events["dataset"].value["verified_at"].endswith("Z")
