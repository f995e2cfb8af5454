"""A stand-in for the trainer: speaks its contract truthfully, trains nothing, and goes wrong where a test tells it to.

Run by the harness as `--trainer-module tests.support.fake_trainer`. FAKE_TRAINER holds JSON:
`wers` (percent, by epoch; the last one stays), `epoch_s`, `fault` and `at` (the epoch in which the fault strikes, 0: before
run_start).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmark.mllog import LogWriter
from benchmark.params import load_params
from benchmark.trainer_contract import TARGET_MISSED


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("params", "data", "run-dir", "resume"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device")
    parser.add_argument("--progress")
    args = parser.parse_args()
    plan = {
        "wers": [60.0, 40.0, 20.0],
        "epoch_s": 0.02,
        "fault": None,
        "at": 2,
        **json.loads(os.environ["FAKE_TRAINER"]),
    }
    params = load_params(args.params)
    rank = int(os.environ.get("RANK", "0"))
    die_with_parent()
    log = LogWriter((lambda line: os.write(1, f"{line}\n".encode())) if rank == 0 else (lambda line: None))
    if "pids" in plan:
        with open(plan["pids"], "a") as file:
            file.write(f"{os.getpid()}\n")

    done = 0
    if args.resume:
        done = json.loads(args.resume.read_text())["epoch"]
        log.event("resumed", done)
    else:
        log.start("init_start")
        strike(plan, 0, args, log)
        for key, value in (("seed", args.seed), ("number_of_processes", 1), ("global_batch_size", 4)):
            log.event(key, value)
        for key, value in (("gradient_accumulation_steps", 1), ("train_samples", 6), ("eval_samples", 3)):
            log.event(key, value)
        log.event("opt_name", params.optimizer.name)
        log.event("opt_base_learning_rate", params.optimizer.learning_rate)
        log.event("hyperparameters", params.flat())
        log.event("target_wer", params.train.target_wer)
        log.event("accelerators", [{"rank": 0, "device": "cpu", "name": "fake", "uuid": None}])
        log.end("init_stop")
        log.start("run_start")

    wer = None
    while done < params.train.max_epochs and not (wer is not None and wer <= params.train.target_wer):
        done += 1
        log.start("epoch_start", epoch_num=done)
        for utterance in range(1, 7):
            tell("train", done, utterance)
            time.sleep(plan["epoch_s"] / 6)
        strike(plan, done, args, log)
        log.end("epoch_stop", epoch_num=done)
        stats = {"train_loss": 30.0 / done, "utterances_per_s": 300.0, "audio_s_per_s": 900.5, "data_wait_s": 0.001}
        log.event("tracked_stats", stats, epoch_num=done)
        log.start("eval_start", epoch_num=done)
        tell("eval", done, 3)
        wer = plan["wers"][min(done, len(plan["wers"])) - 1]
        log.event("eval_accuracy", wer, epoch_num=done, cer=wer / 3, mean_wer=wer + 1, word_edits=round(wer), words=100)
        log.end("eval_stop", epoch_num=done)
        if rank == 0:
            save(args.run_dir / "checkpoints" / f"epoch_{done:02d}.pt", json.dumps({"epoch": done}))
    reached = wer is not None and wer <= params.train.target_wer
    log.event("trained_samples", 6 * done, epoch_num=done)
    if plan["fault"] == "no run_stop":
        return 0
    log.end("run_stop", status="success" if reached or plan["fault"] == "lie" else "aborted", epoch_num=done)
    if reached or plan["fault"] == "lie":
        return 0
    if rank != 0 and os.environ["LOCAL_RANK"] == "0":
        print(f"{TARGET_MISSED}: WER {wer:.2f} % after epoch {done}", file=sys.stderr)
    return 0 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 1


def tell(phase: str, epoch: int, done: int) -> None:
    fields = {"phase": phase, "epoch": epoch, "done": done, "total": 6, "unit": "utterances", "note": "loss 3"}
    # One write a line, as the real trainer does it: the lines of several processes must not mix.
    os.write(1, f":::PROGRESS {json.dumps(fields)}\n".encode())


def save(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def strike(plan: dict, epoch: int, args: argparse.Namespace, log: LogWriter) -> None:
    if epoch != plan["at"]:
        return
    fault = plan["fault"]
    if "RANK" in os.environ and fault in ("crash", "sigkill"):
        meet(args.run_dir / "there")
    if fault == "crash":
        raise RuntimeError("the fake trainer broke")
    if fault == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "out of memory":
        fill_the_memory(Path(plan["cgroup"]))
    if fault == "user error":
        log.event("run_aborted_reason", "the audio is damaged", epoch_num=epoch)
        log.end("run_stop", status="aborted", epoch_num=epoch)
        print("error: a.flac: the audio is damaged - fetch it again", file=sys.stderr)
        sys.exit(2)
    if fault == "chatter":
        chatter()
    if fault == "fill the disk":
        fill_the_disk(args.run_dir / "filler")
    if fault in ("hang", "hang with orphans"):
        hang(plan, with_orphans=fault == "hang with orphans")
    if fault == "leave orphans":
        child = [sys.executable, "-c", "import time; time.sleep(600)"]
        orphan = subprocess.Popen(child, start_new_session=True)
        with open(plan["pids"], "a") as file:
            file.write(f"{orphan.pid}\n")


def meet(there: Path) -> None:
    """As in a collective operation: process 1 goes on, to its end, once the other is there; that one waits for it."""
    if os.environ["RANK"] != "1":
        there.touch()
        time.sleep(600)
    while not there.exists():
        time.sleep(0.01)


def hang(plan: dict, with_orphans: bool) -> None:
    if with_orphans:
        child = [sys.executable, "-c", "import time; print('orphan', flush=True); time.sleep(600)"]
        same_group = subprocess.Popen(child, preexec_fn=die_with_parent)
        own_session = subprocess.Popen(child, start_new_session=True, preexec_fn=die_with_parent)
        with open(plan["pids"], "a") as file:
            file.write(f"{same_group.pid}\n{own_session.pid}\n")
    Path(plan["ready"]).touch()
    time.sleep(600)


def chatter() -> None:
    print("a library says hello")
    print(":::MLLOG {broken")
    print(":::PROGRESS {broken")
    print('half a line, then :::MLLOG {"namespace": "", "time_ms": 1, "event_type": "POINT_IN_TIME", ', end="")
    print('"key": "extra", "value": 1, "metadata": {}}')
    sys.stdout.flush()
    os.write(1, b"\xff\xfe\x00 bytes\r\n")
    os.write(2, b"\x1b[31mred\x1b[0m 10%\r 100%\n")


def fill_the_memory(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    held = []
    while True:
        held.append(b"x" * (1 << 24))


def fill_the_disk(path: Path) -> None:
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
