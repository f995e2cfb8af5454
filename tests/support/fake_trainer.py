"""A stand-in for the trainer: follows the trainer contract, trains nothing, and fails where a test asks for it.

Run by the harness as `--trainer-module tests.support.fake_trainer`. FAKE_TRAINER holds JSON: `wers` (percent, by
epoch; the last one stays), `epoch_s`, `fault` and `at` (the epoch in which the fault happens, 0: before run_start),
`gpu` (the UUID of the GPU that it claims to run on), `pids` (a file to which it appends its process id).

It imports little and writes its log lines itself: most tests of the harness start one or more of these processes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from types import SimpleNamespace

from benchmark import clock

OPTIONS = {"--params", "--data", "--run-dir", "--seed", "--device", "--progress", "--resume"}
"""The options of the trainer contract; a test compares them with its parser's, which takes long to import."""


def main() -> int:
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    if unknown := options.keys() - OPTIONS:
        print(f"error: unrecognized arguments: {' '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    args = SimpleNamespace(run_dir=options["--run-dir"], resume=options.get("--resume"), seed=int(options["--seed"]))
    plan = {"wers": [60.0, 40.0, 20.0], "epoch_s": 0.02, "fault": None, "at": 2, "gpu": None}
    plan |= json.loads(os.environ["FAKE_TRAINER"])
    params = read_params(options["--params"])
    max_epochs, target_wer = params["train.max_epochs"], params["train.target_wer"]
    rank = int(os.environ.get("RANK", "0"))
    die_with_parent()
    log = Log(silent=rank != 0)
    if "pids" in plan:
        with open(plan["pids"], "a") as file:
            file.write(f"{os.getpid()}\n")

    done = 0
    if args.resume:
        with open(args.resume) as file:
            done = json.load(file)["epoch"]
        log.event("resumed", done)
    else:
        log.start("init_start")
        fail(plan, 0, args, log)
        for key, value in (("seed", args.seed), ("number_of_processes", 1), ("global_batch_size", 4)):
            log.event(key, value)
        for key, value in (("gradient_accumulation_steps", 1), ("train_samples", 6), ("eval_samples", 3)):
            log.event(key, value)
        log.event("opt_name", params["optimizer.name"])
        log.event("opt_base_learning_rate", params["optimizer.learning_rate"])
        log.event("hyperparameters", params)
        log.event("target_wer", target_wer)
        device = "cuda:0" if plan["gpu"] else "cpu"
        log.event("accelerators", [{"rank": 0, "device": device, "name": "fake", "uuid": plan["gpu"]}])
        log.end("init_stop")
        log.start("run_start")

    wer = None
    while done < max_epochs and not (wer is not None and wer <= target_wer):
        done += 1
        log.start("epoch_start", epoch_num=done)
        for utterance in range(1, 7):
            print_progress("train", done, utterance)
            time.sleep(plan["epoch_s"] / 6)
        fail(plan, done, args, log)
        log.end("epoch_stop", epoch_num=done)
        stats = {"train_loss": 30.0 / done, "utterances_per_s": 300.0, "audio_s_per_s": 900.5, "data_wait_s": 0.001}
        log.event("tracked_stats", stats, epoch_num=done)
        log.start("eval_start", epoch_num=done)
        print_progress("eval", done, 3)
        wer = plan["wers"][min(done, len(plan["wers"])) - 1]
        log.event("eval_accuracy", wer, epoch_num=done, cer=wer / 3, mean_wer=wer + 1, word_edits=round(wer), words=100)
        log.end("eval_stop", epoch_num=done)
        if rank == 0:
            save(args.run_dir, done)
    reached = wer is not None and wer <= target_wer
    log.event("trained_samples", 6 * done, epoch_num=done)
    if plan["fault"] == "no run_stop":
        return 0
    log.end("run_stop", status="success" if reached or plan["fault"] == "lie" else "aborted", epoch_num=done)
    if reached or plan["fault"] == "lie":
        return 0
    if rank != 0 and os.environ["LOCAL_RANK"] == "0":
        from benchmark.trainer_contract import TARGET_MISSED

        print(f"{TARGET_MISSED}: WER {wer:.2f} % after epoch {done}", file=sys.stderr)
    return 0 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 1


class Log:
    """Log lines on stdout, one write a line."""

    def __init__(self, silent: bool) -> None:
        self.silent = silent

    def event(self, key: str, value: object = None, kind: str = "POINT_IN_TIME", **metadata: object) -> None:
        line = {"namespace": "", "time_ms": int(clock.now_s() * 1000), "event_type": kind}
        if not self.silent:
            os.write(1, f":::MLLOG {json.dumps(line | {'key': key, 'value': value, 'metadata': metadata})}\n".encode())

    def start(self, key: str, **metadata: object) -> None:
        self.event(key, kind="INTERVAL_START", **metadata)

    def end(self, key: str, **metadata: object) -> None:
        self.event(key, kind="INTERVAL_END", **metadata)


def read_params(path: str) -> dict[str, object]:
    """The parameters by dotted name, from a file as `Params.dump` writes it: groups of `name: value` lines."""
    found: dict[str, object] = {}
    group = ""
    with open(path) as file:
        for line in file:
            name, _, text = line.rstrip("\n").partition(":")
            if not text:
                group = f"{name}."
                continue
            try:
                value = json.loads(text)
            except ValueError:
                value = text.strip().strip("'\"")
            found[(group if line.startswith(" ") else "") + name.strip()] = value
    return found


def print_progress(phase: str, epoch: int, done: int) -> None:
    fields = {"phase": phase, "epoch": epoch, "done": done, "total": 6, "unit": "utterances", "note": "loss 3"}
    # One write a line, as the real trainer does it: the lines of several processes must not mix.
    os.write(1, f":::PROGRESS {json.dumps(fields)}\n".encode())


def save(run_dir: str, epoch: int) -> None:
    folder = f"{run_dir}/checkpoints"
    os.makedirs(folder, exist_ok=True)
    part = f"{folder}/.epoch_{epoch:02d}.pt.part"
    with open(part, "w") as file:
        json.dump({"epoch": epoch}, file)
    os.replace(part, f"{folder}/epoch_{epoch:02d}.pt")


def fail(plan: dict, epoch: int, args: SimpleNamespace, log: Log) -> None:
    if epoch != plan["at"]:
        return
    fault = plan["fault"]
    if "RANK" in os.environ and fault in ("crash", "sigkill"):
        meet(f"{args.run_dir}/there")
    if fault == "crash":
        raise RuntimeError("the fake trainer broke")
    if fault == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "out of memory":
        fill_the_memory(plan["cgroup"])
    if fault == "user error":
        log.event("run_aborted_reason", "the audio is damaged", epoch_num=epoch)
        log.end("run_stop", status="aborted", epoch_num=epoch)
        print("error: a.flac: the audio is damaged - fetch it again", file=sys.stderr)
        sys.exit(2)
    if fault == "chatter":
        chatter()
    if fault == "fill the disk":
        fill_the_disk(f"{args.run_dir}/filler")
    if fault in ("hang", "hang with orphans"):
        hang(plan, with_orphans=fault == "hang with orphans")
    if fault == "leave orphans":
        start_sleeper(plan)


def meet(there: str) -> None:
    """As in a collective operation: process 1 runs to its end once the other is there; that one waits for it."""
    if os.environ["RANK"] != "1":
        open(there, "w").close()
        time.sleep(600)
    while not os.path.exists(there):
        time.sleep(0.01)


def start_sleeper(plan: dict, **options) -> None:
    """A process that outlives this one, unless it is killed."""
    import subprocess

    sleeper = subprocess.Popen(["sleep", "600"], **({"start_new_session": True} | options))
    with open(plan["pids"], "a") as file:
        file.write(f"{sleeper.pid}\n")


def hang(plan: dict, with_orphans: bool) -> None:
    if with_orphans:
        start_sleeper(plan, start_new_session=False, preexec_fn=die_with_parent)
        start_sleeper(plan, preexec_fn=die_with_parent)
    open(plan["ready"], "w").close()
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


def fill_the_memory(group: str) -> None:
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    held = []
    while True:
        held.append(b"x" * (1 << 24))


def fill_the_disk(path: str | os.PathLike[str]) -> None:
    try:
        with open(path, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass


def die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
