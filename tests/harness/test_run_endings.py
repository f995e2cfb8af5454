"""A run ended from outside: by signals, closed terminals, full disks. Record and log say so; no process is left."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest

from tests.support.harness import Bench, alive, ends_aborted, finish, keys, small_disk, wait_for


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_in_order(bench, number):
    process = bench.hanging("hang with orphans")
    done = finish(process, number)
    assert done.status == 2
    assert done.last_line == f"error: interrupted by {number.name}"
    record = bench.record()
    assert (record.status, record.reason) == ("interrupted", f"interrupted by {number.name}")
    assert ends_aborted(bench) == f"interrupted by {number.name}"
    assert done.stdout == bench.log()
    assert bench.none_left()


def test_a_second_signal_changes_nothing(bench):
    process = bench.hanging("hang with orphans")
    process.send_signal(signal.SIGTERM)
    for _ in range(5):
        process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.status == 2
    assert bench.record().status == "interrupted"
    assert bench.none_left()


def test_a_killed_harness_takes_its_trainer_with_it(bench):
    process = bench.hanging("hang with orphans")
    finish(process, signal.SIGKILL)
    wait_for(bench.none_left)
    record = bench.record()
    assert (record.status, record.ended_at) == ("unfinished", None)
    assert keys(bench.log())[-1] == "epoch_start"
    done = bench.run("--resume", str(bench.folders()[0]))
    assert done.status == 0, done.stderr
    assert not list(bench.folders()[0].glob(".*"))


def test_processes_that_a_trainer_leaves_running_are_ended(bench):
    bench.pids = bench.folder / "pids"
    done = bench.run(plan={"fault": "leave orphans", "pids": str(bench.pids)})
    assert done.status == 0
    assert len(bench.pids.read_text().split()) == 2
    assert bench.none_left()


def test_nohup_keeps_a_run_going_when_the_terminal_closes(bench):
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = bench.start(plan={"epoch_s": 0.5}, **ignore)
    wait_for(lambda: any("epoch_start" in path.read_text() for path in bench.folder.glob("runs/*/*/result.txt")))
    done = finish(process, signal.SIGHUP)
    assert done.status == 0


def test_a_reader_of_stdout_that_goes_away_does_not_stop_the_run(bench):
    process = bench.start(plan={"epoch_s": 0.3}, new_interpreter=True)
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert keys(bench.log())[-1] in ("run_stop", "telemetry_summary")
    record = bench.record()
    assert record.status == "success"
    assert any("stdout went away" in note for note in record.notes)


def test_a_terminal_that_closes_ends_the_run_in_order(bench):
    """A real terminal, as for a window or an ssh session: the kernel hangs up when its other end is closed."""
    window, terminal = pty.openpty()

    def inside() -> None:
        os.setsid()
        fcntl.ioctl(2, termios.TIOCSCTTY, 0)

    process = bench.hanging("hang with orphans", stderr=terminal, preexec_fn=inside)
    os.close(terminal)
    os.close(window)
    assert finish(process).status == 2
    record = bench.record()
    assert (record.status, record.reason) == ("interrupted", "interrupted by SIGHUP")
    assert ends_aborted(bench) == "interrupted by SIGHUP"
    assert bench.none_left()


def test_a_closed_stderr_costs_only_the_display(bench):
    process = bench.start(plan={"epoch_s": 0.3})
    process.stderr.close()
    process.stderr = None
    stdout, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    assert stdout.decode() == bench.log()
    assert any("stderr" in note for note in bench.record().notes)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_streams_that_were_closed_from_the_start(bench, closed):
    command = f"exec {sys.executable} -m benchmark run --params tiny.yaml --trainer-module tests.support.fake_trainer {closed}"
    environment = os.environ | bench.environment | {"FAKE_TRAINER": "{}"}
    done = subprocess.run(["sh", "-c", command], env=environment, cwd=bench.folder, capture_output=True, timeout=200)
    assert done.returncode == 0
    keys(done.stdout.decode())
    assert keys(bench.log())[0] == "submission_benchmark"
    assert bench.record().status == "success"


@pytest.mark.root("mount a small file system")
def test_a_disk_that_fills_up_during_the_run(bench):
    with small_disk(bench.folder / "runs", "2m"):
        done = bench.run(plan={"fault": "fill the disk", "epoch_s": 0.1})
        assert done.status == 2
        assert "No space left on device" in done.last_line
        record = bench.record()
        assert record.status == "failed" and "No space left on device" in record.reason
        assert "No space left on device" in ends_aborted(bench)
        assert done.stdout == bench.log(), "not a line is lost"


@pytest.mark.root("mount a small file system")
def test_a_disk_that_is_full_from_the_start(bench):
    with small_disk(bench.folder / "runs", "64k"):
        done = bench.run()
        assert done.status == 2 and done.stdout == ""
        assert "No space left on device" in done.last_line and "free some disk space" in done.last_line
        assert done.stderr.count("\n") <= 2


def test_a_results_folder_that_cannot_be_written(bench):
    (bench.folder / "runs").write_text("a file")
    done = bench.run()
    assert (done.status, done.stdout) == (2, "")
    assert str(bench.folder / "runs") in done.last_line


def test_an_interrupted_synthesis_leaves_no_process(bench, tmp_path):
    """The corpus is synthesised in a separate process: a stand-in that is found first hangs here."""
    fake = tmp_path / "fake"
    (fake / "datasets").mkdir(parents=True)
    pid_file = tmp_path / "synthesis.pid"
    script = f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    (fake / "sitecustomize.py").write_text(f"import sys\nif 'synthesise' in sys.orig_argv:\n    exec({script!r})\n")
    process = bench.start("--variant", "mini", env={"PYTHONPATH": f"{fake}:{bench.environment['PYTHONPATH']}"})
    wait_for(lambda: pid_file.exists() and pid_file.read_text())
    done = finish(process, signal.SIGTERM)
    assert done.status == 2
    assert done.last_line == "error: interrupted"
    assert not alive(int(pid_file.read_text()))
    assert not bench.folders()


def test_a_failing_synthesis_is_reported(bench):
    (bench.folder / "data" / "mini").write_text("a file where a folder should go")
    done = bench.run("--variant", "mini")
    assert (done.status, done.stdout) == (2, "")
    assert "the synthesis of the corpus mini ended with exit status 2" in done.last_line
