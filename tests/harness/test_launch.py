"""Starting child processes, reading their output and ending them, and their command lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.harness import launch
from benchmark.harness.caches import drop_caches
from benchmark.harness.launch import Interrupted, Stop, read_output, start, stop_on_signals, trainer_command
from benchmark.settings import ROOT, Settings
from benchmark.trainer_contract import variables
from tests.support.harness import alive, wait_for


def python(code: str) -> subprocess.Popen[bytes]:
    return start([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def output_of(code: str, stop: Stop | None = None) -> tuple[int, list[bytes], list[bytes]]:
    output: list[bytes] = []
    errors: list[bytes] = []
    status = read_output(python(code), stop or Stop(), output.append, errors.append)
    return status, output, errors


def command(settings: Settings, resume: Path | None = None) -> list[str]:
    return trainer_command(
        settings, params_file=Path("p.yaml"), data=Path("data/mini"), run_dir=Path("run"), seed=3, resume=resume
    )


def test_one_process_is_started_without_torchrun():
    words = command(Settings(device="cpu"))
    assert words[:3] == [sys.executable, "-m", "reference_model.train"]
    assert " ".join(words[3:]) == (
        "--params p.yaml --data data/mini --run-dir run --seed 3 --device cpu --progress events"
    )
    assert command(Settings(), Path("c.pt"))[-2:] == ["--resume", "c.pt"]


def test_a_child_has_the_users_environment_and_that_of_the_contract(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("SEED", "7")
    environment = launch.child_environment()
    assert environment["PYTHONPATH"] == f"{ROOT}{os.pathsep}/mine" and environment["SEED"] == "7"
    assert environment.items() >= variables({"PYTHONPATH": "/mine"}).items()


def test_several_processes_are_started_by_torchrun():
    words = command(Settings(processes=4))
    assert words[1:7] == ["-m", "torch.distributed.run", "--nproc-per-node", "4", "--max-restarts", "0"]
    assert "--standalone" in words and "--nnodes" not in words
    words = command(Settings(processes=8, nodes=2, node_rank=1, master_addr="10.0.0.1", master_port=1234))
    assert "--standalone" not in words
    text = " ".join(words)
    assert "--nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --master-port 1234 -m reference_model.train" in text
    one_each = command(Settings(nodes=2, master_addr="a"))
    assert "torch.distributed.run" in one_each


def test_lines_arrive_complete_and_separate():
    code = "import sys, os; os.write(1, b'a'); os.write(1, b'b\\nc\\r\\n\\n'); os.write(2, b'x\\xff\\n'); os.write(1, b'last')"
    assert output_of(code) == (0, [b"ab", b"c\r", b"", b"last"], [b"x\xff"])


def test_much_output_on_both_streams_is_all_output_of():
    code = "import sys\nfor i in range(20000): print(i); print(-i, file=sys.stderr)\n"
    status, output, errors = output_of(code)
    assert status == 0
    assert output == [b"%d" % i for i in range(20000)]
    assert errors == [b"%d" % -i for i in range(20000)]


def test_an_endless_line_is_passed_on_in_pieces():
    _, output, _ = output_of("import os\nfor _ in range(48): os.write(1, b'x' * 65536)")
    assert b"".join(output) == b"x" * 48 * 65536
    assert len(output) > 1


def test_exit_statuses_are_passed_on():
    assert output_of("import sys; sys.exit(7)")[0] == 7
    assert output_of("import os; os.kill(os.getpid(), 9)")[0] == -9


def test_a_stop_ends_the_child():
    stop = Stop()
    stop.request("enough")
    stop.request("too late")
    assert output_of("import time; time.sleep(600)", stop)[0] == -signal.SIGTERM
    assert stop.reason == "enough"


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(launch, "GRACE_S", 0.5)
    stop = Stop()
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    assert read_output(python(code), stop, lambda line: stop.request(line.decode()), print) == -signal.SIGKILL


def test_a_child_that_closes_its_streams_is_waited_for():
    assert output_of("import os, time, sys; os.close(1); os.close(2); time.sleep(0.5); os._exit(3)")[0] == 3


def test_a_grandchild_that_holds_the_pipe_open_does_not_block_the_harness():
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '600'], start_new_session=True); print(p.pid)"
    began_s = time.monotonic()
    status, output, _ = output_of(code)
    assert status == 0 and time.monotonic() - began_s < 60
    assert not alive(int(output[0]))


def test_earlier_children_are_not_ended():
    mine = subprocess.Popen(["sleep", "600"])
    try:
        output_of("pass")
        assert alive(mine.pid)
    finally:
        mine.kill()
        mine.wait()


def test_a_child_dies_with_its_parent(tmp_path):
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\nfrom benchmark.harness import launch\n"
        "p = launch.start(['sleep', '600'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(p.pid) + '\\n')\ntime.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=launch.child_environment())
    wait_for(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    pid = int(pid_file.read_text())
    assert alive(pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(pid))


def test_the_child_leads_its_own_session_and_has_no_input():
    _, output, _ = output_of("import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read() == '')")
    assert output == [b"True True"]


def signalled_at_once() -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_a_signal_before_there_is_anything_to_record_raises():
    with pytest.raises(Interrupted, match="SIGTERM"):
        signalled_at_once()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_later_signal_requests_the_end():
    with stop_on_signals() as stop:
        stop.deferred = True
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.reason, stop.signal_number) == ("interrupted by SIGHUP", signal.SIGHUP)


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_dropping_caches_reports_whether_it_succeeded(tmp_path):
    drop_file = tmp_path / "drop_caches"
    drop_file.touch()
    assert drop_caches(drop_file) is None
    assert drop_file.read_text() == "3\n"
    assert drop_caches(tmp_path / "none" / "file")
    assert drop_caches(Path("/proc/version")), "what cannot be written was not done"
