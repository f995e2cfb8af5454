"""Invalid logs: each is an edit of a valid one, with the rule that must refuse it and the line of the finding."""

from __future__ import annotations

import random

from tests.support.logs import (
    FakeRun,
    at,
    change,
    change_value,
    double,
    drop,
    fields_of,
    line_of,
    move,
    places,
    shifted,
    swap,
)

VALID_LOG = FakeRun().write()
END = "last line"
EVERY_KEY = [
    "submission_benchmark", "submission_org", "submission_division", "submission_status", "submission_platform",
    "variant", "dataset", "params_sha256", "cache_clear", "init_start", "seed", "number_of_processes",
    "global_batch_size", "gradient_accumulation_steps", "train_samples", "eval_samples", "opt_name",
    "opt_base_learning_rate", "opt_weight_decay", "opt_gradient_clip_norm", "opt_learning_rate_warmup_steps",
    "hyperparameters", "target_wer", "accelerators", "init_stop", "run_start", "trained_samples", "run_stop",
    "telemetry_summary",
]  # fmt: skip


def epoch_span(lines, epoch):
    return at(lines, "epoch_start", epoch), at(lines, "eval_stop", epoch) + 1


def without_epoch(lines, epoch):
    start, stop = epoch_span(lines, epoch)
    return lines[:start] + lines[stop:]


def twice_epoch(lines, epoch):
    start, stop = epoch_span(lines, epoch)
    return lines[:stop] + lines[start:]


def exchange_epochs(lines):
    one, two, three = at(lines, "epoch_start", 1), at(lines, "epoch_start", 2), at(lines, "epoch_start", 3)
    return lines[:one] + lines[two:three] + lines[one:two] + lines[three:]


def renumbered(lines, by):
    changed = []
    for fields in map(fields_of, lines):
        if "epoch_num" in fields["metadata"]:
            fields["metadata"]["epoch_num"] += by
        changed.append(line_of(fields))
    return changed


def in_seconds(lines):
    return [line_of(fields | {"time_ms": fields["time_ms"] / 1000}) for fields in map(fields_of, lines)]


def clock_back(lines, milliseconds):
    place = at(lines, "eval_start", 1)
    return lines[:place] + shifted(lines[place:], -milliseconds)


def later(lines, key, milliseconds):
    place = at(lines, key)
    return lines[:place] + shifted(lines[place:], milliseconds)


def sooner(lines, key, nth, milliseconds):
    place = at(lines, key, nth)
    return lines[:place] + shifted(lines[place:], -milliseconds)


def after_stop(lines, key):
    place = places(lines, key)[-1]
    stop = at(lines, "run_stop")
    return lines[:place] + lines[place + 1 : stop + 1] + [lines[place]] + lines[stop + 1 :]


def aborted_reason(lines):
    place = at(lines, "run_stop")
    reason = fields_of(lines[place]) | {"key": "run_aborted_reason", "value": "tired", "event_type": "POINT_IN_TIME"}
    return [*lines[:place], line_of(reason), *lines[place:]]


def with_resumed(lines, before, nth, value=1):
    """A log of a run that was resumed there, with telemetry that starts there."""
    place = at(lines, before, nth)
    fields = fields_of(lines[place]) | {"key": "resumed", "value": value, "event_type": "POINT_IN_TIME", "metadata": {}}
    region_s = (fields_of(lines[at(lines, "run_stop")])["time_ms"] - fields["time_ms"]) / 1000
    return change_value("telemetry_summary", region_s=region_s)([*lines[:place], line_of(fields), *lines[place:]])


# Name, edit of the valid log's lines, the rule that must refuse it, and the line: (key, nth), END, or None for any.
MUTATIONS = [
    *[
        (f"no {key}", drop(key), "key-present", END)
        for key in EVERY_KEY
    ],
    ("no epoch_start of epoch 2", drop("epoch_start", 1), "epoch-pairs", ("epoch_stop", 1)),
    ("no epoch_stop of epoch 2", drop("epoch_stop", 1), "epoch-pairs", ("tracked_stats", 1)),
    ("no tracked_stats of epoch 3", drop("tracked_stats", 2), "epoch-pairs", ("eval_start", 2)),
    ("no eval_start of epoch 1", drop("eval_start", 0), "epoch-pairs", ("eval_accuracy", 0)),
    ("no eval_accuracy of epoch 2", drop("eval_accuracy", 1), "epoch-pairs", ("eval_stop", 1)),
    ("no eval_stop of epoch 4", drop("eval_stop", 3), "epoch-pairs", ("eval_accuracy", 3)),
    *[
        (f"{key} twice, equal", double(key), "key-once", (key, 1))
        for key in EVERY_KEY
    ],
    ("epoch_stop twice", double("epoch_stop", 1), "epoch-pairs", ("epoch_stop", 2)),
    ("eval_accuracy twice", double("eval_accuracy", 1), "epoch-pairs", ("eval_accuracy", 2)),
    ("run_stop before run_start", swap("run_stop", "run_start"), "key-order", ("run_stop", 0)),
    ("cache_clear after run_start", move("cache_clear", "epoch_start"), "key-order", ("cache_clear", 0)),
    ("hyperparameters after run_start", move("hyperparameters", "epoch_start"), "key-order", ("hyperparameters", 0)),
    ("init_stop before init_start", swap("init_stop", "init_start"), "key-order", ("init_stop", 0)),
    ("run_start before init_stop", swap("run_start", "init_stop"), "key-order", ("run_start", 0)),
    ("seed before init_start", move("seed", "init_start"), "key-order", ("seed", 0)),
    ("submission_org at the end", move("submission_org", "run_stop"), "key-order", ("submission_org", 0)),
    ("an evaluation after run_stop", lambda x: after_stop(x, "eval_accuracy"), "key-order", ("eval_accuracy", 3)),
    ("trained_samples too early", move("trained_samples", "epoch_start", 0, 2), "trained-samples", ("trained_samples", 0)),
    ("evaluation inside the epoch", swap("epoch_stop", "eval_start", 1), "epoch-pairs", ("eval_start", 1)),
    ("evaluation stop before its score", swap("eval_accuracy", "eval_stop", 2), "epoch-pairs", ("eval_stop", 2)),
    ("epochs exchanged", exchange_epochs, "epoch-numbers", ("epoch_start", 1)),
    ("other benchmark", change("submission_benchmark", value="deepspeech3"), "benchmark-known", ("submission_benchmark", 0)),
    ("division misspelt", change("submission_division", value="close"), "key-value", ("submission_division", 0)),
    ("status misspelt", change("submission_status", value="mine"), "key-value", ("submission_status", 0)),
    ("no submitter", change("submission_org", value=" "), "key-value", ("submission_org", 0)),
    ("seed as text", change("seed", value="17"), "key-value", ("seed", 0)),
    ("negative seed", change("seed", value=-1), "key-value", ("seed", 0)),
    ("seed true", change("seed", value=True), "key-value", ("seed", 0)),
    ("fractional samples", change("train_samples", value=1760.5), "key-value", ("train_samples", 0)),
    ("no digest", change_value("dataset", tree_sha256=None), "key-value", ("dataset", 0)),
    ("digest cut short", change_value("dataset", tree_sha256="abc"), "key-value", ("dataset", 0)),
    ("cache_clear without a value", change("cache_clear", value=None), "key-value", ("cache_clear", 0)),
    ("score null", change("eval_accuracy", 1, value=None), "key-value", ("eval_accuracy", 1)),
    ("negative score", change("eval_accuracy", 3, value=-1.0), "key-value", ("eval_accuracy", 3)),
    ("score as a share", change("eval_accuracy", 3, value=0.1923), "eval-score", ("eval_accuracy", 3)),
    ("score made better", change("eval_accuracy", 1, value=22.9), "eval-score", ("eval_accuracy", 1)),
    ("edits made fewer", change("eval_accuracy", 3, metadata={"word_edits": 1}), "eval-score", ("eval_accuracy", 3)),
    ("no counts", change("eval_accuracy", 3, metadata={"words": ...}), "eval-score", ("eval_accuracy", 3)),
    ("cer edited", change("eval_accuracy", 2, metadata={"cer": 1.0}), "eval-score", ("eval_accuracy", 2)),
    (
        "a smaller evaluation set in epoch 4",
        change("eval_accuracy", 3, value=19.0, metadata={"word_edits": 19, "words": 100}),
        "eval-score",
        ("eval_accuracy", 3),
    ),
    ("half the set evaluated", change("eval_accuracy", 2, metadata={"utterances": 2}), "entry-samples", ("eval_accuracy", 2)),
    ("epoch 2 called 3", change("epoch_start", 1, metadata={"epoch_num": 3}), "epoch-numbers", ("epoch_start", 1)),
    ("epochs from 0", lambda x: renumbered(x, -1), "epoch-numbers", ("epoch_start", 0)),
    ("epoch 2 left out", lambda x: without_epoch(x, 1), "epoch-numbers", ("epoch_start", 1)),
    ("epoch 2 run twice", lambda x: twice_epoch(x, 1), "epoch-numbers", ("epoch_start", 2)),
    ("no epoch_num", change("eval_stop", 2, metadata={"epoch_num": ...}), "epoch-numbers", ("eval_stop", 2)),
    ("epoch_num as text", change("epoch_stop", 0, metadata={"epoch_num": "1"}), "epoch-numbers", ("epoch_stop", 0)),
    ("epoch_num of run_stop", change("run_stop", metadata={"epoch_num": 9}), "epoch-numbers", ("run_stop", 0)),
    ("aborted", change("run_stop", metadata={"status": "aborted"}), "run-status", ("run_stop", 0)),
    ("no status", change("run_stop", metadata={"status": ...}), "run-status", ("run_stop", 0)),
    ("status unknown", change("run_stop", metadata={"status": "done"}), "run-status", ("run_stop", 0)),
    ("more samples trained", change("trained_samples", value=7041), "trained-samples", ("trained_samples", 0)),
    ("an easier target", change("target_wer", value=40.0), "entry-target", ("target_wer", 0)),
    ("another batch size", change("global_batch_size", value=64), "entry-agreement", ("global_batch_size", 0)),
    ("another optimizer", change("opt_name", value="lamb"), "entry-agreement", ("opt_name", 0)),
    ("another rate", change("opt_base_learning_rate", value=0.1), "entry-agreement", ("opt_base_learning_rate", 0)),
    *[
        (f"{name} edited", change_value("hyperparameters", **{name.replace(".", "__"): value}), "entry-hyperparameters",
         ("hyperparameters", 0))
        for name, value in (
            ("model.rnn_hidden", 256),
            ("optimizer.learning_rate", 0.004),
            ("train.max_epochs", 9),
            ("augment.gain_max_db", 9.0),
            ("model.bidirectional", 1),
            ("train.precision", "bf16"),
        )
    ],
    ("a parameter left out", change_value("hyperparameters", train__order=...), "entry-hyperparameters", ("hyperparameters", 0)),
    ("a parameter added", change_value("hyperparameters", train__luck=1), "entry-hyperparameters", ("hyperparameters", 0)),
    ("another hash", change("params_sha256", value="0" * 64), "entry-params-hash", ("params_sha256", 0)),
    ("an open variant called closed", change("variant", value="librispeech_open"), "entry-variant", ("variant", 0)),
    ("another closed variant", change("variant", value="librispeech"), "entry-variant", ("hyperparameters", 0)),
    ("ranks missing", change("number_of_processes", value=2), "entry-accelerators", ("accelerators", 0)),
    ("clock back by a day", lambda x: clock_back(x, 86_400_000), "clock-order", ("eval_start", 1)),
    ("clock back by 1 ms", lambda x: clock_back(x, 502), "clock-order", ("eval_start", 1)),
    ("too fast by its account", change_value("tracked_stats", 1, utterances_per_s=5e3), "epoch-throughput", ("tracked_stats", 1)),
    ("no time of training", change_value("tracked_stats", 2, train_s=...), "key-value", ("tracked_stats", 2)),
    ("a stop with a value", change("eval_stop", 1, value="x"), "key-value", ("eval_stop", 1)),
    ("no namespace", change("seed", namespace=None), "event-type", ("seed", 0)),
    ("an epoch made shorter", lambda x: sooner(x, "epoch_stop", 1, 5000), "epoch-time", ("epoch_stop", 1)),
    ("the run's end put later", lambda x: later(x, "run_stop", 9000), "run-telemetry", ("telemetry_summary", 0)),
    ("another time by telemetry", change_value("telemetry_summary", region_s=12.0), "run-telemetry", ("telemetry_summary", 0)),
    ("times in seconds", in_seconds, "clock-plausible", 1),
    ("a time as text", change("run_start", time_ms="1760000000000"), "log-line-parse", None),
    ("an hour of set-up", lambda x: later(x, "init_stop", 3_600_000), "init-time", ("init_stop", 0)),
    ("interval as a point", change("run_start", event_type="POINT_IN_TIME"), "event-type", ("run_start", 0)),
    ("cut after epoch 3", lambda x: x[: at(x, "epoch_start", 3)], "key-present", END),
    ("cut in mid-epoch", lambda x: x[: at(x, "epoch_stop", 2)], "epoch-pairs", END),
    ("cut before telemetry", lambda x: x[:-1], "key-present", END),
    ("two runs in one file", lambda x: x + FakeRun(seed=18, start_s=1_770_000_000.0).write(), "key-once", None),
    ("the same run twice", lambda x: x + x, "key-once", None),
    ("the header alone", lambda x: x[:9], "key-present", END),
    ("an event of the run's middle garbled", lambda x: [*x[:30], x[30].replace('"key"', '"k'), *x[31:]], "log-line-parse", 31),
    ("a reason for abortion in a success", aborted_reason, "run-status", None),
    ("resumed in mid-epoch", lambda x: with_resumed(x, "epoch_stop", 1), "epoch-resumed", ("resumed", 0)),
    ("resumed after another epoch", lambda x: with_resumed(x, "epoch_start", 1, value=3), "epoch-resumed", ("resumed", 0)),
]  # fmt: skip


ODD = [None, True, -1, 0, 1.5, "", "closed", [], {}, 2**70, 1e300, [[1]], {"a": {}}, "9" * 400]


def leaves(tree, path=()):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from leaves(value, (*path, key))


def randomly_edited(lines: list[str], chance: random.Random) -> list[str]:
    """One random edit: of lines, or of any value of one event."""
    lines = list(lines)
    place, kind = chance.randrange(len(lines)), chance.randrange(8)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(chance.randrange(len(lines)), lines[place])
    elif kind == 2:
        lines.insert(chance.randrange(len(lines)), lines.pop(place))
    elif kind == 3:
        lines = lines[:place]
    else:
        fields = fields_of(lines[place])
        path = chance.choice(list(leaves(fields)))
        tree = fields
        for key in path[:-1]:
            tree = tree[key]
        if chance.random() < 0.2:
            del tree[path[-1]]
        elif chance.random() < 0.5 and type(tree[path[-1]]) in (int, float):
            tree[path[-1]] += chance.choice([1, -1, 0.5, -1000, 1000])
        else:
            tree[path[-1]] = chance.choice(ODD)
        lines[place] = line_of(fields)
    return lines
