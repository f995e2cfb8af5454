"""Files of all earlier format versions are read, and newer ones are rejected with the version that is needed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmark.harness.series import read_plan
from benchmark.record import read_record
from common.errors import UserError
from common.formats import FORMATS, Format
from compliance.__main__ import main as compliance
from compliance.convergence import read_points
from datasets.dataset import read_dataset, read_stamp
from datasets.pack import damaged_shards, open_packed
from reference_model.checkpoints.loading import load_trained
from reference_model.checkpoints.training_state import load_checkpoint
from reference_model.inference.engines import trained_from_onnx
from results.compare import main as compare
from results.rendering.inference_table import read_inference
from tests.conftest import DATA, ROOT
from tests.support.training import train

OLD = DATA / "formats"
RUN = OLD / "run"
CHECKPOINT = RUN / "checkpoints" / "epoch_01.pt"


def test_the_page_lists_every_format_with_its_version():
    page = (ROOT / "docs" / "formats.md").read_text()
    rows = re.findall(r"^\| ([a-z' ]+) \| .* \| (\d+) \|$", page, re.MULTILINE)
    assert sorted(rows) == sorted((kind.name, str(kind.version)) for kind in FORMATS)


def test_older_versions_are_upgraded_step_by_step():
    steps = {1: lambda tree: {"length_s": tree["length_ms"] / 1000}, 3: lambda tree: tree | {"unit": "s"}}
    kind = Format("thing", 4, steps)
    assert kind.current({"schema": 1, "length_ms": 1500}, "f") == {"length_s": 1.5, "unit": "s"}
    assert kind.current({"schema_version": 2, "length_s": 1.5}, "f") == {"length_s": 1.5, "unit": "s"}
    assert kind.current({"schema_version": 4, "length_s": 1.5}, "f") == {"length_s": 1.5}


# ---------------------------------------------------------------------------------------------------------------------
# Version 1


def test_an_old_record():
    record = read_record(RUN)
    assert (record.status, record.variant, record.seed) == ("aborted", "six", 1214988538)
    assert record.dataset.train_utterances == 6 and record.run.run_s and record.epochs[0].wer == 100.0


def test_training_resumes_from_an_old_checkpoint(tmp_path):
    """Its dataset and packed audio also have version 1."""
    line = ["--params", RUN / "params.yaml", "--data", OLD / "six", "--device", "cpu", "--run-dir", tmp_path]
    line += ["--seed", "1214988538", "--resume", CHECKPOINT, "--epochs", "2", "--workers", "0"]
    done = train([str(each) for each in line])
    assert done.status == 1, done.stderr
    old, new = load_checkpoint(CHECKPOINT), load_checkpoint(tmp_path / "checkpoints" / "epoch_02.pt")
    assert (new.epoch, new.params_sha256, new.step) == (2, old.params_sha256, 2 * old.step)
    tree = torch.load(tmp_path / "checkpoints" / "epoch_02.pt", weights_only=True)
    assert tree["schema_version"] == tree["format"] == 2, "programs of version 1 then reject it as a newer checkpoint"


def test_old_network_files_hold_the_same_network():
    trained = [load_trained(CHECKPOINT), load_trained(OLD / "six.safetensors")]
    for each in trained:
        assert (each.variant, each.epoch, each.wer, each.model.rnn_hidden) == ("six", 1, 100.0, 8)
    first, second = (each.network() for each in trained)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    assert trained_from_onnx(OLD / "six.onnx").model == trained[0].model


def test_an_old_series_and_its_points():
    plan = read_plan(OLD)
    assert plan.seeds == (1214988538, 3557831687) and plan.code.clean and plan.runs == 2
    (point,) = read_points("rcp", OLD)
    assert (point.batch_size, len(point.epochs)) == (16, 20)


def test_an_old_dataset_with_its_stamp_and_packed_audio():
    dataset = read_dataset(OLD / "six")
    assert dataset.splits["train"].utterances == 6
    assert read_stamp(OLD / "six").passed
    manifest = dataset.manifest("train")
    packed = open_packed(dataset, "train", manifest)
    assert len(packed.read(5)) == round(list(manifest)[5].duration_s * 16_000)
    assert damaged_shards(dataset) == []


def test_an_old_inference_run():
    problems: list[str] = []
    (run,) = read_inference([OLD / "inference.json"], problems)
    assert (problems, run.model, run.utterances, run.wer_pct) == ([], "six", 3, 100.0)


def test_a_comparison_and_a_compliance_report_have_their_old_fields(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    run_folder = str(RUN.relative_to(ROOT))
    for name, main, arguments in (
        ("compare.json", compare, [run_folder, "--format", "json"]),
        ("compliance.json", compliance, [run_folder, "--json"]),
    ):
        main(arguments)
        now = json.loads(capsys.readouterr().out)
        then = json.loads((OLD / name).read_text())
        assert then.keys() <= now.keys() and then["schema_version"] == 1
        if name == "compare.json":
            assert now["schema_version"] == 2
            (old,), (new,) = then["rows"], now["rows"]
            (old_run,), (new_run,) = old.pop("run_details"), new.pop("run_details")
            assert {key: new[key] for key in old} == old
            assert {key: new_run[key] for key in old_run} == old_run | {"file": f"{run_folder}/result.txt"}
        else:
            # The integrity rules were called seal-* when the report was written. Whether the lock file is that of the run
            # depends on the checkout: git has the run's, a copy without git only today's.
            old, new = (
                {
                    (each["rule"].replace("seal-", "integrity-"), each["severity"], each["line"])
                    for each in report["findings"]
                    if each["rule"] != "integrity-lock"
                }
                for report in (then, now)
            )
            # Version 2 sorts the findings by file, and has a finding's consequences in the finding.
            assert new == old and now["schema_version"] == 2
            assert [each["consequences"] for each in now["findings"]] == [[]] * len(now["findings"])


# ---------------------------------------------------------------------------------------------------------------------
# Newer versions


def make_newer(path: Path, version: str = "schema_version") -> None:
    """Change a JSON file to a newer version, as if a newer program had written it."""
    tree = json.loads(path.read_text())
    path.write_text(
        json.dumps({version: 99, **{key: value for key, value in tree.items() if key not in ("schema", "format")}})
    )


def with_header(network: Path, **texts: str) -> Path:
    """Change texts in a network file's header."""
    with safe_open(network, framework="pt") as file:
        about = file.metadata()
    save_file(load_file(network), network, metadata=about | texts)
    return network


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(OLD, tmp_path / "formats")
    return tmp_path / "formats"


def check_rejected(read, path: Path) -> None:
    with pytest.raises(UserError, match=r"of version 99; this program reads versions up to \d") as caught:
        read()
    assert str(path) in str(caught.value) and "use a version of the benchmark that reads version 99" in str(
        caught.value
    )


def test_newer_files_are_rejected_with_the_version_that_is_needed(copy):
    for name, read in {
        "run/record.json": lambda: read_record(copy / "run"),
        "series.json": lambda: read_plan(copy),
        "six.packed/index.json": lambda: damaged_shards(read_dataset(copy / "six")),
        "six.dataset.json": lambda: read_dataset(copy / "six"),
    }.items():
        make_newer(copy / name)
        check_rejected(read, copy / name)
    points = json.loads((copy / "rcp.json").read_text())
    next(iter(points.values()))["schema_version"] = 99
    (copy / "rcp.json").write_text(json.dumps(points))
    check_rejected(lambda: read_points("rcp", copy), copy / "rcp.json")
    make_newer(copy / "inference.json")
    problems: list[str] = []
    assert read_inference([copy / "inference.json"], problems) == []
    assert "an inference run of version 99" in problems[0]
    make_newer(copy / "six.verified.json")
    assert read_stamp(copy / "six") is None, "a stamp that cannot be read is not a passed verification"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("epoch", "three", "epoch: .* must be a whole number, not 'three'"),
        ("precision", "fp7", "precision: .* must be one of fp32, tf32, bf16"),
        ("model", '{"rnn_hidden": 8}', "model.conv_channels: missing key"),
        ("model", "[" * 5000, "model: .* must be an object"),
        ("features", '{"colour": 1}', "features.colour: unknown key"),
        ("labels", "ABC", "its labels are not ours"),
        ("schema_version", "9" * 5000, "its schema_version is '999"),
    ],
)
def test_an_invalid_field_in_a_network_header_is_named(copy, key, text, message):
    network = with_header(copy / "six.safetensors", **{key: text})
    with pytest.raises(UserError, match=message) as caught:
        load_trained(network)
    assert str(network) in str(caught.value)


def test_a_newer_checkpoint_or_network_is_rejected(copy):
    path = copy / "run" / "checkpoints" / "epoch_01.pt"
    torch.save(torch.load(path, weights_only=True) | {"schema_version": 99}, path)
    check_rejected(lambda: load_checkpoint(path), path)
    check_rejected(lambda: load_trained(path), path)
    network = with_header(copy / "six.safetensors", schema_version="99")
    check_rejected(lambda: load_trained(network), network)
