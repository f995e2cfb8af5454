"""End to end: LibriSpeech archives on a server (synthesised speech) are downloaded, verified and trained on."""

import io
import os
import subprocess
from pathlib import Path

import pytest
import soundfile
import yaml

from benchmark.mllog import read_log
from datasets.audio import to_16k
from datasets.commands import main as datasets_main
from datasets.synthesis import voices
from results.dataset_check.verify import main as verify
from tests.support.http_server import serve
from tests.support.libri_archives import build, real_chapters, write_table

ROOT = Path(__file__).resolve().parents[2]


def test_from_download_to_a_timed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with voices.Synthesiser(voices.draw_speaker("1", "story"), 1) as synthesiser:

        def speak(utterance: str, words: str) -> bytes:
            out = io.BytesIO()
            soundfile.write(out, to_16k(synthesiser.say(words) / 32768, synthesiser.rate_hz), 16_000, format="FLAC")
            return out.getvalue()

        archives = [
            build(tmp_path / "served", name, [(c, lines[:4]) for c, lines in real_chapters(2, offset)], audio=speak)
            for name, offset in (("train-clean-100", 0), ("dev-clean", 4), ("test-clean", 8))
        ]
    data = tmp_path / "data"
    with serve(tmp_path / "served") as server:
        server.faults.cut_after = [50_000, 100_000]
        table = write_table(archives, tmp_path / "table.json")
        source = ["--table", str(table), "--base-url", server.url]
        assert datasets_main(["download", "clean_small", "--data-dir", str(data), *source, "--deep"]) == 0
    assert verify([str(data / "LibriSpeech_dataset")]) == 0
    assert capsys.readouterr().out.endswith("Dataset Checksum Passed.\n")

    params = yaml.safe_load((ROOT / "benchmark/variants/mini.yaml").read_text())
    params["variant"] = "libri_small"
    params["data"]["folder"] = "LibriSpeech_dataset"
    params["model"] |= {"conv_channels": 2, "rnn_hidden": 16, "rnn_layers": 1, "batch_norm_between": False}
    params["train"] |= {"max_epochs": 1, "batch_size": 4, "eval_batch_size": 8}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    environment = os.environ | {"DATA_DIR": str(data), "RESULTS_DIR": str(tmp_path / "runs"), "SEED": "5"}
    command = ["sh", "run_and_time.sh", "--params", tmp_path / "params.yaml"]
    environment |= {"DEVICE": "cpu", "DROP_CACHES": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # one epoch of a tiny network does not reach the target
    (result,) = (tmp_path / "runs").rglob("result.txt")
    events = {event.key: event for event in read_log(result)[0]}
    assert events["run_stop"].metadata["status"] == "aborted"
    assert events["train_samples"].value == archives[0].utterances
    assert events["eval_samples"].value == archives[1].utterances
    assert events["dataset"].value["verified_at"].endswith("Z")
