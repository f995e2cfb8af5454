"""The command line `python -m datasets`: help and exit statuses; errors and progress of all commands."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import progress
from common.errors import EXIT_ERROR, EXIT_FAILED, EXIT_OK, UserError, from_os_error, one_line, run_cli
from common.progress import Progress, format_duration
from datasets import commands
from datasets.librispeech.transfer_progress import TransferProgress
from tests.support.harness import members, wait_for

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments):
    return [sys.executable, "-m", "datasets", *map(str, arguments)]


@pytest.mark.parametrize("line", [["synthesise", "mini"], ["download", "clean_test"]])
def test_data_dir_is_the_default_folder_of_corpora(line, monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert commands.build_parser().parse_args(line).data_dir == tmp_path


def test_help_shows_every_command_with_examples(capsys):
    with pytest.raises(SystemExit) as exit:
        commands.main(["--help"])
    printed = capsys.readouterr().out
    assert exit.value.code == 0
    for name in ("synthesise", "import"):
        assert name in printed
    assert "examples:\n  python -m datasets synthesise mini" in printed


@pytest.mark.parametrize("name", ["synthesise", "import"])
def test_each_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as exit:
        commands.main([name, "--help"])
    assert exit.value.code == 0 and f"python -m datasets {name}" in capsys.readouterr().out.split("example")[1]


@pytest.mark.parametrize(
    "arguments",
    [[], ["sing"], ["synthesise"], ["synthesise", "maxi"], ["synthesise", "mini", "--hou", "3"], ["import"]],
)
def test_a_wrong_command_line_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        commands.main(arguments)
    assert exit.value.code == 2 and "usage: python -m datasets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthesise", "mini", "--hours", "3"], "--hours: mini has a fixed size"),
        (["synthesise", "synthetic", "--hours", "0"], "--hours: must be between"),
        (["synthesise", "synthetic", "--hours", "nan"], "--hours: must be between"),
        (
            ["synthesise", "synthetic", "--hours", "1234.567"],
            "--hours: must have at most three decimals and six digits",
        ),
        (["synthesise", "mini", "--processes", "0"], "--processes: must be 1 or more"),
        (["import", "--train", "t", "--val", "v", "--out", "o", "--processes", "-1"], "--processes: must be 1 or more"),
    ],
)
def test_a_wrong_value_is_named(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_cli(lambda: commands.main(arguments)) == EXIT_ERROR
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_the_whole_group_with_one_line(tmp_path):
    process = subprocess.Popen(
        command("synthesise", "synthetic", "--hours", "1", "--data-dir", tmp_path),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    done = tmp_path / ".synthetic-1h.part" / "done"
    while process.poll() is None and not list(done.glob("*.json")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate()[1]
    assert process.returncode == EXIT_ERROR and printed == "error: interrupted\n"
    assert not (tmp_path / "synthetic-1h").exists()
    wait_for(lambda: not members(process.pid))


# Errors.


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("it is wrong", where="a.csv:3", remedy="fix it"), "error: a.csv:3: it is wrong - fix it\n"),
        (UserError("it is wrong"), "error: it is wrong\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            "error: /data/x: No space left on device - free some",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/data"),
            "error: /data: Read-only file system - choose a writable folder",
        ),
        (OSError(errno.EACCES, "Permission denied", b"/d\xe9"), "error: /d\\udce9: Permission denied - check the"),
        (KeyboardInterrupt(), "error: interrupted\n"),
        (MemoryError(), "error: out of memory"),
    ],
)
def test_an_error_that_users_can_fix_is_one_line_and_status_2(error, message, capsys):
    assert run_cli(raising(error)) == EXIT_ERROR
    printed = capsys.readouterr()
    assert printed.err.startswith(message) and printed.err.count("\n") == 1 and printed.out == ""


def test_a_status_is_returned_and_a_bug_keeps_its_traceback():
    assert run_cli(lambda: EXIT_OK) == 0 and run_cli(lambda: EXIT_FAILED) == 1
    with pytest.raises(ZeroDivisionError):
        run_cli(raising(ZeroDivisionError()))


def test_line_breaks_and_control_characters_are_escaped():
    error = UserError("no such file", where="evil\n\x1b[2J.wav")
    assert str(error) == "evil\\n\\x1b[2J.wav: no such file"
    assert one_line("naïve ⚑ text") == "naïve ⚑ text"


def test_an_os_error_without_a_number_is_reported():
    assert str(from_os_error(OSError("odd"))) == "OSError"


def test_characters_that_the_encoding_lacks_are_escaped():
    code = "from common.errors import run_cli; run_cli(lambda: print('caf\\xe9 \\udce9') or 0)"
    line = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    shown = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (shown.stdout, shown.stderr) == ("caf\\xe9 \\udce9\n", "")


def test_closed_streams_do_not_change_the_status():
    code = "import sys; from common.errors import run_cli; sys.exit(run_cli(lambda: print('x') or 1))"
    for closed in ("2>&-", ">&- 2>&- <&-"):
        assert subprocess.run(f'"{sys.executable}" -c "{code}" {closed}', shell=True, cwd=ROOT).returncode == 1
    done = subprocess.run(
        f'"{sys.executable}" -m datasets stats /nothing >&-', shell=True, cwd=ROOT, capture_output=True
    )
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", ["stats", "pack"])
def test_the_folder_may_be_the_working_directory_but_not_the_root(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_cli(lambda: commands.main([command, "."])) == EXIT_ERROR
    assert f"{tmp_path}.dataset.json: the dataset is incomplete" in capsys.readouterr().err
    assert run_cli(lambda: commands.main([command, "/"])) == EXIT_ERROR
    assert capsys.readouterr().err.startswith("error: /: the root of the file system cannot be a dataset")


def test_a_closed_pipe_ends_the_command_silently():
    code = "import sys; from common.errors import run_cli; sys.exit(run_cli(lambda: print('x\\n' * 10**6) or 0))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == EXIT_ERROR


# Progress.


class Clock:
    """A clock that tests advance manually."""

    def __init__(self, monkeypatch):
        self.now_s = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now_s)


def test_plain_progress_is_a_line_every_15_seconds_and_one_at_the_end(monkeypatch, capsys):
    clock_ = Clock(monkeypatch)
    with Progress("reading", 1200, "files") as shown:
        for done in range(0, 1201, 100):
            shown.update(done, "fine")
            clock_.now_s += 5
    assert capsys.readouterr().err.splitlines() == [
        "reading: 300 of 1,200 files, 45 s left  fine",
        "reading: 600 of 1,200 files, 30 s left  fine",
        "reading: 900 of 1,200 files, 15 s left  fine",
        "reading: 1,200 of 1,200 files, 0 s left  fine",
        "reading: 1,200 of 1,200 files in 1:05 min",
    ]


def test_a_failed_job_does_not_report_its_end(capsys):
    with pytest.raises(ValueError, match="no"), Progress("reading", 3):
        raise ValueError("no")
    assert capsys.readouterr().err == ""


def on_terminal(code: str, columns: int = 80) -> bytes:
    """The output of `code` on a terminal of that width; it must print nothing on stdout."""
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns)}
    line = [sys.executable, "-c", "from common.progress import Progress\n" + code]
    ran = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    shown = io.BytesIO()
    # A terminal reports EIO when its last writer has closed it.
    with open(master, "rb", 0) as screen, pytest.raises(OSError, match="Input/output error"):
        shutil.copyfileobj(screen, shown)
    assert ran.returncode == 0 and ran.stdout == b""
    return shown.getvalue()


def test_a_terminal_gets_a_bar_on_stderr():
    # Text that looks like rich markup is shown literally.
    shown = on_terminal("with Progress('[/]reading', 5, 'files') as p: p.update(5, '[/b]')")
    assert b"[/]reading" in shown and b"5/5" in shown and b"[/b]" in shown


def test_a_narrow_terminal_truncates_the_note():
    shown = on_terminal("with Progress('LibriSpeech', 122_800, 'MB') as p: p.update(61_400, '3.8 MB/s, ' + 50 * 'x')")
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r" 61400/122800 MB 0:00:0\d -:--:-- 3\.8 MB/s, x+…", plain)


def test_control_characters_in_a_servers_message_are_escaped(capsys):
    with TransferProgress("LibriSpeech", 1) as progress:
        progress.print_line("HTTP 500 \x1b[2J\rall is well")
    assert "HTTP 500 \\x1b[2J\\rall is well\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (185, "3:05 min"), (3600, "1:00 h"), (7800, "2:10 h")],
)
def test_durations_are_formatted(seconds, text):
    assert format_duration(seconds) == text
