"""A valid log of one run, written by the project's own LogWriter with simulated times, and functions to edit it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from unittest import mock

from benchmark import mllog
from benchmark.params import Params, load_variant
from datasets.corpora import SIZES
from datasets.references import reference_of

TOKEN = mllog.TOKEN.decode()
MINI_PARAMS = load_variant("mini")
MINI = reference_of("mini")
assert MINI is not None
DIGEST = MINI.tree_sha256


@dataclass
class FakeRun:
    """The inputs of a simulated log: parameters, word errors per epoch, seed, corpus sizes and start time."""

    params: Params = MINI_PARAMS
    word_edits: tuple[int, ...] = (1290, 800, 420, 250)
    words: int = 1300
    seed: int = 17
    train_samples: int = SIZES["mini"].train
    eval_samples: int = SIZES["mini"].eval
    start_s: float = 1_760_000_000.0
    step_s: float = 0.25
    train_s: float = 9.0
    processes: int = 1
    org: str = "Example"
    platform: str = "a-machine"
    tree_sha256: str = DIGEST
    cache_clear: bool = True
    reason: str | None = None
    lines: list[str] = field(default_factory=list)
    now_s: float = 0.0

    def write(self) -> list[str]:
        """The log's lines, in the order of a real run."""
        self.lines, self.now_s = [], self.start_s
        with mock.patch("benchmark.mllog.clock.now_s", self._tick):
            self._write(mllog.LogWriter(self.lines.append))
        return list(self.lines)

    def text(self) -> str:
        """The same as a file's text."""
        return "".join(line + "\n" for line in self.write())

    def _tick(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def _write(self, log: mllog.LogWriter) -> None:
        params = self.params
        log.event(mllog.SUBMISSION_BENCHMARK, mllog.BENCHMARK)
        log.event(mllog.SUBMISSION_ORG, self.org)
        log.event(mllog.SUBMISSION_DIVISION, params.division)
        log.event(mllog.SUBMISSION_STATUS, "onprem")
        log.event(mllog.SUBMISSION_PLATFORM, self.platform)
        log.event(mllog.VARIANT, params.variant)
        dataset = {"name": params.data.folder, "tree_sha256": self.tree_sha256, "verified_at": "2026-01-01T00:00:00Z"}
        log.event(mllog.DATASET, dataset)
        log.event(mllog.PARAMS_SHA256, params.sha256)
        log.event(mllog.CACHE_CLEAR, self.cache_clear)
        log.start(mllog.INIT_START)
        log.event(mllog.SEED, self.seed)
        log.event(mllog.NUMBER_OF_PROCESSES, self.processes)
        log.event(mllog.GLOBAL_BATCH_SIZE, params.train.batch_size)
        log.event(mllog.GRADIENT_ACCUMULATION_STEPS, 1)
        log.event(mllog.TRAIN_SAMPLES, self.train_samples)
        log.event(mllog.EVAL_SAMPLES, self.eval_samples)
        log.event("opt_name", params.optimizer.name)
        log.event("opt_base_learning_rate", params.optimizer.learning_rate)
        log.event("opt_weight_decay", params.optimizer.weight_decay)
        log.event("opt_gradient_clip_norm", params.optimizer.clip_norm)
        log.event("opt_learning_rate_warmup_steps", params.optimizer.warmup_steps)
        log.event(mllog.HYPERPARAMETERS, params.flat())
        log.event(mllog.TARGET_WER, params.train.target_wer)
        ranks = [{"rank": rank, "device": "cpu", "name": "a CPU", "uuid": None} for rank in range(self.processes)]
        log.event(mllog.ACCELERATORS, ranks)
        log.end(mllog.INIT_STOP)
        log.start(mllog.RUN_START)
        started_s = self.now_s
        self._write_epochs(log)
        log.event(
            mllog.TELEMETRY_SUMMARY, {"interval_s": 1.0, "samples": 40, "region_s": self.now_s - started_s, "gpus": []}
        )

    def _write_epochs(self, log: mllog.LogWriter) -> None:
        wer = 100.0
        for epoch, edits in enumerate(self.word_edits, 1):
            log.start(mllog.EPOCH_START, epoch_num=epoch)
            self.now_s += self.train_s
            log.end(mllog.EPOCH_STOP, epoch_num=epoch)
            stats = {"train_loss": 40.0 / epoch, "utterances_per_s": self.train_samples / self.train_s}
            log.event(mllog.TRACKED_STATS, stats | {"train_s": self.train_s}, epoch_num=epoch)
            log.start(mllog.EVAL_START, epoch_num=epoch)
            wer = 100.0 * edits / self.words
            log.event(
                mllog.EVAL_ACCURACY,
                wer,
                epoch_num=epoch,
                cer=100.0 * 2 * edits / 7000,
                mean_wer=wer,
                utterances=self.eval_samples,
                word_edits=edits,
                words=self.words,
                char_edits=2 * edits,
                chars=7000,
            )
            log.end(mllog.EVAL_STOP, epoch_num=epoch)
        epochs = len(self.word_edits)
        log.event(mllog.TRAINED_SAMPLES, self.train_samples * epochs, epoch_num=epochs)
        reached = wer <= self.params.train.target_wer
        log.end(mllog.RUN_STOP, status=mllog.SUCCESS if reached else mllog.ABORTED, epoch_num=epochs)


Lines = list[str]


def fields_of(line: str) -> dict:
    """A log line's JSON object."""
    return json.loads(line.split(TOKEN, 1)[1])


def line_of(fields: dict) -> str:
    """The log line of a JSON object."""
    return TOKEN + json.dumps(fields)


def places(lines: Lines, key: str) -> list[int]:
    """Indices of the lines of a key."""
    return [at for at, line in enumerate(lines) if TOKEN in line and f'"key": "{key}"' in line]


def at(lines: Lines, key: str, nth: int = 0) -> int:
    """Index of the nth line of a key."""
    return places(lines, key)[nth]


def drop(key: str, nth: int = 0) -> Callable[[Lines], Lines]:
    """An edit that removes one line of `key`."""

    def edit(lines: Lines) -> Lines:
        place = at(lines, key, nth)
        return lines[:place] + lines[place + 1 :]

    return edit


def double(key: str, nth: int = 0) -> Callable[[Lines], Lines]:
    """An edit that writes one line of `key` twice."""

    def edit(lines: Lines) -> Lines:
        place = at(lines, key, nth)
        return lines[: place + 1] + lines[place:]

    return edit


def change(key: str, nth: int = 0, *, metadata: dict | None = None, **fields: object) -> Callable[[Lines], Lines]:
    """An edit of one line's fields; a metadata value of `...` removes that key."""

    def edit(lines: Lines) -> Lines:
        place = at(lines, key, nth)
        tree = fields_of(lines[place]) | fields
        for name, value in (metadata or {}).items():
            if value is ...:
                tree["metadata"].pop(name)
            else:
                tree["metadata"][name] = value
        return [*lines[:place], line_of(tree), *lines[place + 1 :]]

    return edit


def change_value(key: str, nth: int = 0, **items: object) -> Callable[[Lines], Lines]:
    """An edit of items of one line's value, which is an object; `...` removes an item."""

    def edit(lines: Lines) -> Lines:
        value = dict(fields_of(lines[at(lines, key, nth)])["value"])
        for name, item in items.items():
            dotted = name.replace("__", ".")
            if item is ...:
                del value[dotted]
            else:
                value[dotted] = item
        return change(key, nth, value=value)(lines)

    return edit


def move(key: str, before: str, nth: int = 0, nth_before: int = 0) -> Callable[[Lines], Lines]:
    """An edit that moves one line before another; times stay sorted, so that only the order is wrong."""

    def edit(lines: Lines) -> Lines:
        line = lines[at(lines, key, nth)]
        rest = drop(key, nth)(lines)
        place = at(rest, before, nth_before)
        return retimed([*rest[:place], line, *rest[place:]], lines)

    return edit


def swap(key: str, other: str, nth: int = 0) -> Callable[[Lines], Lines]:
    """An edit that exchanges two lines; all times stay sorted."""

    def edit(lines: Lines) -> Lines:
        one, two = at(lines, key, nth), at(lines, other, nth)
        swapped = list(lines)
        swapped[one], swapped[two] = lines[two], lines[one]
        return retimed(swapped, lines)

    return edit


def retimed(lines: Lines, like: Lines) -> Lines:
    """`lines` with the sorted times of `like` (both of equal length)."""
    times = sorted(fields_of(line)["time_ms"] for line in like)
    return [line_of(fields_of(line) | {"time_ms": time}) for line, time in zip(lines, times, strict=True)]


def shifted(lines: Lines, milliseconds: int) -> Lines:
    """`lines` with all times shifted."""
    return [line_of((tree := fields_of(line)) | {"time_ms": tree["time_ms"] + milliseconds}) for line in lines]


def written(lines: Lines) -> bytes:
    """The file's bytes."""
    return "".join(line + "\n" for line in lines).encode()


def ten_runs(**changes: object) -> list[list[str]]:
    """Ten valid logs with ten seeds, one after another in time."""
    return list(_ten_runs(**changes))


@cache
def _ten_runs(**changes: object) -> list[list[str]]:
    chance = random.Random(5)
    runs = []
    for number in range(10):
        edits = (1290, 800 + number, 420, 280) if number % 2 else (1290, 800 + number, 420, 305, 250)
        run = FakeRun(seed=1000 + 7 * number, start_s=1_760_000_000.0 + 400 * number, word_edits=edits)
        run.train_s += chance.random()
        for name, value in changes.items():
            setattr(run, name, value)
        runs.append(run.write())
    return runs
