"""What is one row: every key that changes a time separates runs, and what differs in a row is named under it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import mllog, record
from common.errors import UserError
from results import compare
from results.comparing.identity import KEYS, MACHINE, RowKeys, buckets_of
from results.reading.configuration import IDENTITY, NOTED
from results.reading.discover import Source
from results.reading.run_data import Run
from tests.results.test_results_compare import as_json
from tests.support.logs import FakeRun, change, line_of
from tests.support.run_folders import COMMIT, FakeMachine, system, write_run, write_series

SOFTWARE = {
    "python": "3.11.7",
    "torch": "2.11.0",
    "cuda_runtime": "13.0.96",
    "cudnn": "9.19.0.56",
    "driver": "580.1",
    "numpy": "2.4.6",
    "nccl": "2.28.9",
    "operating_system": "Debian 12",
    "container": "docker",
}
BOX = FakeMachine("box", gpus=1)


def logged(key, value):
    """An edit that adds an event to the set-up part of a log."""

    def edit(lines):
        at = next(place for place, line in enumerate(lines) if '"init_stop"' in line)
        return [*lines[:at], line_of({**event_of(lines[at]), "key": key, "value": value}), *lines[at:]]

    return edit


def event_of(line):
    parsed = mllog.parse_line(line.encode())
    return {
        "namespace": "",
        "time_ms": parsed.time_ms,
        "event_type": "POINT_IN_TIME",
        "metadata": {"file": "x.py", "lineno": 1},
    }


def system_with(**fields):
    return {"system": system(BOX) | fields, "software": SOFTWARE}


def software_with(**fields):
    return {"software": SOFTWARE | fields}


# For each key of IDENTITY: how to make two runs that differ in nothing else, as (edit, record fields) of each.
PAIRS = {
    "processor": [(list, system_with(host_processor_model_name=name)) for name in ("AMD EPYC", "Intel Xeon")],
    "cores": [(list, system_with(hw_notes=f"virtual machine: yes, usable cores: {n}")) for n in (2, 16)],
    "host_memory": [(list, system_with(host_memory_capacity=size)) for size in ("24 GiB", "126 GiB")],
    "accelerator_memory": [(list, system_with(accelerator_memory_capacity=size)) for size in ("80 GiB", "140 GiB")],
    "threads": [(logged(mllog.CPU_THREADS, n), {}) for n in (1, 8)],
    "trainer": [
        (list, {"command": ("python", "-m", module, "--params", "x")})
        for module in ("reference_model.train", "examples.plain_trainer")
    ],
    "commit": [(list, {"code": record.CodeVersion(commit=commit, clean=True)}) for commit in (COMMIT, "f" * 40)],
    "torch": [(list, software_with(torch=version)) for version in ("2.10.0", "2.11.0")],
    "cuda": [(list, software_with(cuda_runtime=version)) for version in ("12.8", "13.0")],
    "cudnn": [(list, software_with(cudnn=version)) for version in ("9.1", "9.19")],
    "driver": [(list, software_with(driver=version)) for version in ("570", "580")],
    "gru_dtype": [(logged("gru_dtype", dtype), {}) for dtype in ("float32", "bfloat16")],
    "gru_cuda_graphs": [(logged("gru_cuda_graphs", on), {}) for on in (False, True)],
    "conv_layout": [(logged("conv_layout", layout), {}) for layout in ("channels-first", "channels-last")],
    "input_format": [
        (logged("gru_dtype", "float32"), {}),
        (lambda lines: logged("input_format", "packed")(logged("gru_dtype", "float32")(lines)), {}),
    ],
    "caches": [(change(mllog.CACHE_CLEAR, value=dropped), {}) for dropped in (True, False)],
    "container": [(list, software_with(container=kind)) for kind in ("docker", None)],
}


def write_pair(folder, pair):
    for number, (edit, fields) in enumerate(pair):
        write_run(folder / f"run-{number}", FakeRun(seed=number), BOX, edit, **({"software": SOFTWARE} | fields))


def test_every_key_has_a_pair():
    # The precision is a parameter: it separates groups already.
    assert set(PAIRS) == set(IDENTITY) - {"precision"}


@pytest.mark.parametrize("key", sorted(PAIRS))
def test_each_key_separates_runs_of_one_host_name(key, tmp_path, capsys):
    write_pair(tmp_path, PAIRS[key])
    _, answer, _ = as_json(capsys, tmp_path)
    assert [row["runs"] for row in answer["rows"]] == [1, 1]
    assert len({row[key] for row in answer["rows"]}) == 2
    # They can be told apart in every table, and merged on purpose, which the row says.
    compare.main([str(tmp_path), "--width", "200"])
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("#"))
    assert KEYS[key] in header
    _, answer, _ = as_json(capsys, tmp_path, "--ignore", key)
    (row,) = answer["rows"]
    assert row["runs"] == 2 and (row[key] is None or " + " in row[key])
    assert any(note.startswith(f"merged although not the same {KEYS[key]}: ") for note in row["notes"]), row["notes"]


@pytest.mark.parametrize(
    ("key", "field"), [("operating_system",) * 2, ("python",) * 2, ("numpy",) * 2, ("nccl",) * 2, ("lock_file", None)]
)
def test_what_else_differs_is_named_and_can_separate(key, field, tmp_path, capsys):
    for number in range(3):
        fields = software_with(**{field: f"version {number > 1}"}) if field else {"lock_sha256": f"{number > 1:d}" * 64}
        write_run(tmp_path / str(number), FakeRun(seed=number), BOX, **fields)
    _, answer, _ = as_json(capsys, tmp_path)
    (row,) = answer["rows"]
    (note,) = [note for note in row["notes"] if note.startswith(f"not the same {NOTED[key]}: ")]
    assert "(2 runs)" in note and "(1 run)" in note
    _, answer, _ = as_json(capsys, tmp_path, "--by", key)
    assert sorted(row["runs"] for row in answer["rows"]) == [1, 2]


def test_two_cards_of_a_model_are_one_row_that_says_so(tmp_path, capsys):
    for number in range(2):
        devices = [{"rank": 0, "device": "cuda:0", "name": "NVIDIA H200", "uuid": f"GPU-card-{number}"}]
        run = write_run(tmp_path / str(number), FakeRun(seed=number), BOX)
        lines = (run / "result.txt").read_text().splitlines()
        (run / "result.txt").write_text("\n".join(change(mllog.ACCELERATORS, value=devices)(lines)) + "\n")
    _, answer, _ = as_json(capsys, tmp_path)
    assert any("GPU UUIDs: GPU-card-0 (1 run), GPU-card-1 (1 run)" in note for note in answer["rows"][0]["notes"])


def test_uncommitted_changes_are_another_commit_and_may_differ(tmp_path, capsys):
    for number, clean in enumerate((True, False, False)):
        code = record.CodeVersion(commit=COMMIT, clean=clean)
        write_run(tmp_path / str(number), FakeRun(seed=number), BOX, code=code)
    _, answer, _ = as_json(capsys, tmp_path)
    assert sorted(row["commit"] for row in answer["rows"]) == [COMMIT[:8], f"{COMMIT[:8]} with changes"]
    (changed,) = [row for row in answer["rows"] if row["runs"] == 2]
    assert any("uncommitted changes" in note for note in changed["notes"])


def test_gpu_libraries_do_not_separate_runs_on_a_cpu(tmp_path, capsys):
    for number in range(2):
        fields = software_with(driver=str(number), cuda_runtime=str(number))
        write_run(tmp_path / str(number), FakeRun(seed=number), **fields)
    assert len(as_json(capsys, tmp_path)[1]["rows"]) == 1


def test_the_number_of_processes_is_a_column(tmp_path, capsys):
    for processes in (1, 2):
        write_series(tmp_path / str(processes), 2, FakeMachine("cpu-box", processes=processes), slower=1 / processes)
    compare.main([str(tmp_path), "--width", "80"])
    out = capsys.readouterr().out
    assert "processes" in next(line for line in out.splitlines() if line.startswith("#"))
    assert "Example / cpu-box (processes 2) trains in 0.5" in " ".join(out.split())
    assert "None" not in out


def test_a_log_without_its_record_stays_in_the_only_row_it_can_be_in(tmp_path, capsys):
    runs = [write_run(tmp_path / f"a{seed}", FakeRun(seed=seed), BOX, software=SOFTWARE) for seed in range(4)]
    (runs[1] / "record.json").unlink()
    _, answer, _ = as_json(capsys, tmp_path)
    (row,) = answer["rows"]
    assert row["runs"] == 4 and row["torch"] == "2.11.0"
    assert any(note.startswith("not known of 1 of 4 runs") and "torch" in note for note in row["notes"])
    # It could be in either of two rows: nobody knows, and it is in none.
    for seed in (8, 9):
        write_run(tmp_path / f"b{seed}", FakeRun(seed=seed), BOX, software=SOFTWARE | {"torch": "2.10.0"})
    _, answer, _ = as_json(capsys, tmp_path)
    assert sorted(row["runs"] for row in answer["rows"]) == [1, 2, 3]


def test_a_cpu_run_without_its_record_stays_with_the_others(tmp_path, capsys):
    """The log names the CPU by its threads only, which is not its model."""
    runs = write_series(tmp_path, 3)
    (runs[0] / "record.json").unlink()
    (row,) = as_json(capsys, tmp_path)[1]["rows"]
    assert (row["runs"], row["processor"], row["threads"]) == (3, "Example CPU 9000", "1")
    for run in runs[1:]:
        (run / "record.json").unlink()
    (row,) = as_json(capsys, tmp_path)[1]["rows"]
    assert (row["runs"], row["processor"], row["threads"]) == (3, None, "1")


def test_what_is_known_of_a_run_is_never_contradicted_by_its_row(tmp_path, capsys):
    """Of another dataset, or of another folder where the system is unknown, a run is in another row."""
    write_run(tmp_path / "a" / "1", FakeRun(seed=1), BOX, software=SOFTWARE)
    (write_run(tmp_path / "a" / "2", FakeRun(seed=2, tree_sha256="e" * 64), BOX) / "record.json").unlink()
    assert [row["runs"] for row in as_json(capsys, tmp_path)[1]["rows"]] == [1, 1]
    for folder in "bc":
        for seed in (1, 2):
            run = write_run(tmp_path / "nameless" / folder / str(seed), FakeRun(seed=seed), BOX)
            lines = (run / "result.txt").read_text().splitlines()
            kept = [line for line in lines if '"submission_platform"' not in line]
            (run / "result.txt").write_text("\n".join(kept) + "\n")
    assert [row["runs"] for row in as_json(capsys, tmp_path / "nameless")[1]["rows"]] == [2, 2]


def test_allocator_settings_are_named(tmp_path, capsys):
    for number, setting in enumerate((None, "backend:native", "expandable_segments:False")):
        run = write_run(tmp_path / str(number), FakeRun(seed=number), BOX)
        tree = json.loads((run / "record.json").read_text())
        tree["run"][("pytorch_alloc_conf", "pytorch_cuda_alloc_conf")[number % 2]] = setting
        (run / "record.json").write_text(json.dumps(tree))
    (row,) = as_json(capsys, tmp_path)[1]["rows"]
    assert any(
        "allocator settings: backend:native (1 run), expandable_segments:False (1 run)" in n for n in row["notes"]
    )


def test_a_run_resumed_with_other_threads_is_of_another_row(tmp_path, capsys):
    for number, later in enumerate((None, 4, 8)):
        edit = logged(mllog.CPU_THREADS, 4)
        run = write_run(tmp_path / str(number), FakeRun(seed=number), BOX, edit)
        if later:
            lines = (run / "result.txt").read_text().splitlines()
            event = {**event_of(lines[-2]), "key": mllog.RESUMED, "value": 2}
            event["metadata"] |= {"cpu_threads": later}
            (run / "result.txt").write_text("\n".join([*lines[:-2], line_of(event), *lines[-2:]]) + "\n")
    rows = as_json(capsys, tmp_path)[1]["rows"]
    assert sorted((row["threads"], row["runs"]) for row in rows) == [("4", 2), ("4, resumed with 8", 1)]


def test_what_rows_share_is_said_once_and_what_they_do_not_is_not(tmp_path, capsys):
    for number, torch in enumerate(("2.10.0", "2.11.0")):
        write_run(tmp_path / str(number), FakeRun(seed=number), BOX, software=SOFTWARE | {"torch": torch})
    (group,) = as_json(capsys, tmp_path)[1]["groups"]
    assert "torch" not in group["configuration"] and group["configuration"]["cuda"] == "13.0.96"
    compare.main([str(tmp_path), "--width", "300"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "the same in all rows" in line]
    assert "CUDA 13.0.96" in line and "torch" not in line
    # Rows that their names tell apart: a line has both values, in their order.
    compare.main([f"x={tmp_path / '0'}", f"y={tmp_path / '1'}", "--width", "300"])
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "not the same" in line]
    first = next(line.split()[1] for line in out.splitlines() if line.startswith("1 "))
    assert ("torch 2.10.0 | 2.11.0" if first == "x" else "torch 2.11.0 | 2.10.0") in line


def test_labels_separate_name_and_are_found_in_every_output(tmp_path, capsys):
    for name in "ab":
        write_series(tmp_path / name, 2, BOX, seed_offset=ord(name))
    paths = [f"old={tmp_path / 'a'}", f"new code={tmp_path / 'b'}"]
    _, answer, _ = as_json(capsys, *paths)
    assert sorted(row["label"] for row in answer["rows"]) == ["new code", "old"]
    for form in ("text", "markdown", "csv"):
        assert compare.main([*paths, "--format", form]) == 0
        out = capsys.readouterr().out
        assert "new code" in out and "old" in out
    # Without labels, these are runs of one system.
    assert len(as_json(capsys, tmp_path)[1]["rows"]) == 1
    # A label for two paths is one row; a path with "=" in its name is a path.
    assert len(as_json(capsys, f"x={tmp_path / 'a'}", f"x={tmp_path / 'b'}")[1]["rows"]) == 1
    (tmp_path / "a").rename(tmp_path / "k=v")
    assert as_json(capsys, tmp_path / "k=v")[1]["rows"][0]["label"] is None
    with pytest.raises(UserError, match="all runs under this path are under an earlier path too"):
        compare.main([str(tmp_path), f"inner={tmp_path / 'b'}"])
    for wrong in ("=x", "name="):
        with pytest.raises(SystemExit) as refused:
            compare.main([wrong])
        assert refused.value.code == 2 and "not PATH or LABEL=PATH" in capsys.readouterr().err


def test_unknown_and_contradictory_keys_are_refused(tmp_path):
    write_run(tmp_path / "run", FakeRun())
    for arguments, message in (
        (["--by", "colour"], "unknown key 'colour'"),
        (["--ignore", "python"], "unknown key 'python'"),
        (["--by", "torch", "--ignore", "torch"], "torch is in --by and in --ignore"),
    ):
        with pytest.raises(UserError, match=message):
            compare.main([str(tmp_path), *arguments])


def test_prices_give_the_cost_to_the_target(tmp_path, capsys):
    write_series(tmp_path / "a", 2, FakeMachine("fast", gpus=2))
    write_series(tmp_path / "b", 2, FakeMachine("slow"), slower=2.0)
    _, answer, _ = as_json(capsys, tmp_path, "--price", "fast=12.5", "--price", "slow=0.5", "--sort", "cost")
    slow, fast = answer["rows"]
    assert (slow["system"], fast["system"]) == ("slow", "fast")
    assert fast["usd"] == pytest.approx(fast["score_minutes"] / 60 * 12.5) and fast["usd_per_hour"] == 12.5
    assert fast["accelerator_minutes"] == 2 * fast["score_minutes"] and slow["accelerator_minutes"] is None
    with pytest.raises(UserError, match="--price: no row is named 'nobody'"):
        compare.main([str(tmp_path), "--price", "nobody=1"])
    for wrong in ("fast", "fast=-1", "fast=nan", "=3", "fast=0"):
        with pytest.raises(SystemExit):
            compare.main([str(tmp_path), "--price", wrong])
        assert "not ROW=USD with a positive price" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["text", "markdown"])
@pytest.mark.parametrize("width", ["40", "80", "160"])
def test_single_runs_are_listed(form, width, tmp_path, capsys):
    runs = write_series(tmp_path, 3, BOX)
    assert compare.main([str(tmp_path), "--runs", "--format", form, "--width", width]) == 0
    out = capsys.readouterr().out
    assert "Runs of group 1" in out
    for number, run in enumerate(runs):
        assert str(1000 + 7919 * number) in out
        assert run.name.rsplit("-", 1)[0] in "".join(out.split()).replace("\\", "")
    if form == "text":
        assert max(map(len, out.splitlines())) <= int(width)


configurations = st.lists(
    st.dictionaries(st.sampled_from(["torch", "threads", "commit"]), st.sampled_from([None, "1", "2"])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300)
@given(configurations, st.sampled_from([(), ("torch",), ("torch", "threads"), tuple(MACHINE)]))
def test_rows_partition_the_runs_and_never_mix_known_values(drawn, ignore):
    runs = []
    for number, values in enumerate(drawn):
        configuration = dict.fromkeys((*IDENTITY, *NOTED)) | values
        log = Path(f"/runs/{number}/result.txt")
        run = Run(
            log,
            Source(log),
            benchmark="deepspeech2",
            submitter="a",
            system="b",
            division="closed",
            variant="mini",
            params_sha256="1",
            dataset_sha256="2",
            target_wer=23.0,
            configuration=configuration,
        )
        runs.append(run)
    buckets = buckets_of(runs, RowKeys(ignore=ignore))
    found = [run for bucket in buckets for run in bucket.runs]
    assert sorted(map(id, found)) == sorted(map(id, runs))
    for bucket in buckets:
        for key in {"torch", "threads", "commit"} - set(ignore):
            assert len({run.configuration[key] for run in bucket.runs} - {None}) <= 1
        assert [runs.index(run) for run in bucket.runs] == sorted(runs.index(run) for run in bucket.runs)
        assert bucket.unknown.total() < len(bucket.runs)
