"""Rules for a log as an entry: what a closed entry must not change, what an open one must keep, what must agree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from benchmark import mllog
from benchmark.params import NEUTRAL, Params, load_variant, params_from_dict, variant_names
from benchmark.submission import MAX_TARGET_WER
from benchmark.trainer_contract import REPEATED
from common.errors import UserError
from common.values import is_digest, is_integer, is_number, is_text
from compliance.findings import ERROR, WARNING, Fault, Rule, shown
from compliance.log import Log
from datasets.corpora import SIZES
from datasets.references import reference_of
from datasets.synthesis.plans import SYNTHESISED


def variant(name: object) -> Params | None:
    """The committed parameters of a variant, or None if there is no such variant."""
    return _variant(name) if isinstance(name, str) else None


@cache
def _variant(name: str) -> Params | None:
    return load_variant(name) if name in variant_names() else None


def logged_params(log: Log) -> Params | None:
    """The logged hyperparameters as checked Params; None if they are missing or invalid."""
    flat = log.value(mllog.HYPERPARAMETERS)
    if not isinstance(flat, dict):
        return None
    try:
        return params_from_dict(nested(flat), log.path)
    except UserError:
        return None


def nested(flat: dict[str, object]) -> dict[str, object]:
    """Dotted names as nested objects: the inverse of Params.flat."""
    tree: dict = {}
    for name, value in flat.items():
        section, _, inner = name.rpartition(".")
        if section and not isinstance(tree.setdefault(section, {}), dict):
            # Two names that contradict each other ("a" and "a.b"): keep both, so that the key is reported as unknown.
            tree[name] = value
        else:
            (tree[section] if section else tree)[inner] = value
    return tree


def is_closed(log: Log) -> bool:
    """Whether the log claims to be a closed entry."""
    return log.value(mllog.SUBMISSION_DIVISION) == "closed"


def entry_variant(log: Log) -> Iterator[Fault]:
    """A closed entry runs a closed variant; the parameters carry the same name."""
    name = log.value(mllog.VARIANT)
    if not is_text(name):
        return
    known = variant(name)
    if is_closed(log) and (known is None or known.division != "closed"):
        closed = ", ".join(n for n in variant_names() if load_variant(n).division == "closed")
        remedy = "run a closed variant, or submit to the open division"
        yield Fault(f"a closed variant: {closed}", shown(name), remedy, log.line(mllog.VARIANT))
    own = log.parameter("variant")
    if own is not None and own != name:
        line = log.line(mllog.HYPERPARAMETERS)
        yield Fault(f"hyperparameters of {shown(name)}", shown(own), "log the run's own parameters", line)


def entry_hyperparameters(log: Log) -> Iterator[Fault]:
    """Closed: the variant's committed parameters, value by value. Open: any that are complete and valid."""
    event = log.first(mllog.HYPERPARAMETERS)
    if event is None or not isinstance(event.value, dict):
        return
    known = variant(log.value(mllog.VARIANT))
    if is_closed(log) and known is not None:
        flat, logged = NEUTRAL | known.flat(), NEUTRAL | event.value
        remedy = "run the variant's own parameters, or submit to the open division"
        for name in [*flat, *(name for name in logged if name not in flat)]:
            if name not in flat:
                yield Fault("only the variant's parameters", f"also {shown(name)}", remedy, event.line)
            elif name not in logged:
                yield Fault(f"{name} = {shown(flat[name])}", "missing", remedy, event.line)
            elif not _same(flat[name], logged[name]):
                yield Fault(f"{name} = {shown(flat[name])}", shown(logged[name]), remedy, event.line)
        return
    try:
        params_from_dict(nested(event.value), "hyperparameters")
    except UserError as error:
        yield Fault("parameters that are complete and valid", str(error), "log the run's own parameters", event.line)


def _same(one: object, other: object) -> bool:
    # 1, 1.0 and true compare equal in Python, but the type is part of a parameter's value.
    return type(one) is type(other) and one == other


def entry_params_hash(log: Log) -> Iterator[Fault]:
    """params_sha256 is the hash of the logged hyperparameters."""
    params, logged = logged_params(log), log.value(mllog.PARAMS_SHA256)
    if params is not None and is_digest(logged) and params.sha256 != logged:
        remedy = "log the run's own parameters, unedited"
        yield Fault(f"{params.sha256} (of the hyperparameters)", logged, remedy, log.line(mllog.PARAMS_SHA256))


def entry_agreement(log: Log) -> Iterator[Fault]:
    """A value that is logged in two places is the same in both."""
    for key, name in REPEATED.items():
        event, own = log.first(key), log.parameter(name)
        if event is not None and own is not None and event.value != own:
            yield Fault(f"{name} = {shown(own)}", shown(event.value), "log the run's own value", event.line)


def entry_target(log: Log) -> Iterator[Fault]:
    """No entry makes the target easier."""
    event = log.first(mllog.TARGET_WER)
    if event is not None and is_number(event.value) and event.value > MAX_TARGET_WER:
        remedy = "train to the benchmark's target"
        yield Fault(f"a target of at most {MAX_TARGET_WER:g} %", shown(event.value), remedy, event.line)


def entry_samples(log: Log) -> Iterator[Fault]:
    """Closed entries train on the whole training set; all entries evaluate on the whole evaluation set."""
    folder = log.parameter("data.folder")
    sizes = SIZES.get(folder) if is_text(folder) else None
    if sizes is None:
        return
    wanted = [(mllog.EVAL_SAMPLES, sizes.eval)]
    if is_closed(log):
        wanted.append((mllog.TRAIN_SAMPLES, sizes.train))
    for key, samples in wanted:
        event = log.first(key)
        if event is not None and event.value != samples:
            remedy = "prepare the whole corpus and make the run again"
            yield Fault(f"{samples} utterances", shown(event.value), remedy, event.line)
    samples = log.value(mllog.EVAL_SAMPLES)
    for event in log.all(mllog.EVAL_ACCURACY):
        counted = event.metadata.get("utterances")
        if counted is not None and is_integer(samples) and counted != samples:
            yield Fault(f"{samples} utterances evaluated", shown(counted), "evaluate each one once", event.line)


def entry_dataset(log: Log) -> Iterator[Fault]:
    """The dataset is the benchmark's own and was verified before the run."""
    event = log.first(mllog.DATASET)
    if event is None or not isinstance(event.value, dict):
        return
    verified_at = event.value.get("verified_at")
    if verified_at is None:
        found, remedy = "not verified", "run `sh verify_dataset.sh` before the timed run"
        yield Fault("a dataset verified before the run", found, remedy, event.line, WARNING)
    elif not is_text(verified_at):
        yield Fault(
            "verified_at: a time or null", shown(verified_at), "log the time of the verification, or null", event.line
        )
    folder, digest = log.parameter("data.folder"), event.value.get("tree_sha256")
    reference = reference_of(folder) if is_text(folder) and is_closed(log) else None
    if reference is not None and is_digest(digest) and digest != reference.tree_sha256:
        # These corpora are synthesised locally: a processor that rounds differently produces other bytes of the same corpus.
        severity = WARNING if folder in SYNTHESISED else ERROR
        remedy = "run `sh verify_dataset.sh`, which distinguishes a damaged file from another machine's synthesis"
        yield Fault(f"tree_sha256 {reference.tree_sha256}", digest, remedy, event.line, severity)


def entry_cache_clear(log: Log) -> Iterator[Fault]:
    """The system's file caches were emptied before the run."""
    event = log.first(mllog.CACHE_CLEAR)
    if event is None or event.value is not False:
        return
    # A corpus that was just generated may stay in the file cache where the user has no permission to empty it.
    warn = not is_closed(log) or log.parameter("data.folder") in SYNTHESISED
    remedy = "run as root outside a container, or empty the caches by hand and state that in the description"
    found = "they were not (cache_clear false)"
    yield Fault("file caches emptied before the run", found, remedy, event.line, WARNING if warn else ERROR)


def entry_accelerators(log: Log) -> Iterator[Fault]:
    """Each process names its accelerator, each accelerator once."""
    event, processes = log.first(mllog.ACCELERATORS), log.value(mllog.NUMBER_OF_PROCESSES)
    if event is None or not isinstance(event.value, list) or not is_integer(processes, 1):
        return
    items = [item if isinstance(item, dict) else {} for item in event.value]
    ranks = [item.get("rank") for item in items]
    if ranks != list(range(len(ranks))) or len(ranks) != processes:
        remedy = "log each process's accelerator, by rank"
        yield Fault(f"ranks 0 to {processes - 1}", shown(ranks), remedy, event.line)
    uuids = [item["uuid"] for item in items if is_text(item.get("uuid"))]
    if len(set(uuids)) != len(uuids):
        yield Fault(
            "one accelerator per process", "one accelerator listed twice", "give each process its own GPU", event.line
        )


ENTRY_RULES = [
    Rule(
        "entry-variant", "A closed entry runs a closed variant, and its parameters are that variant's.", entry_variant
    ),
    Rule(
        "entry-hyperparameters",
        "Closed: hyperparameters equal the variant's committed file. Open: complete and valid.",
        entry_hyperparameters,
    ),
    Rule("entry-params-hash", "params_sha256 is the hash of the logged hyperparameters.", entry_params_hash),
    Rule("entry-agreement", "Batch size, target and opt_* keys agree with the hyperparameters.", entry_agreement),
    Rule("entry-target", f"The target word error rate is {MAX_TARGET_WER:g} % or less.", entry_target),
    Rule(
        "entry-samples", "The corpus has its full size: training set when closed, evaluation set always.", entry_samples
    ),
    Rule(
        "entry-dataset",
        "The dataset has the reference digest (warning if synthesised), verified before the run (warning).",
        entry_dataset,
    ),
    Rule(
        "entry-cache-clear",
        "File caches were emptied (an error in closed entries on LibriSpeech, else a warning).",
        entry_cache_clear,
    ),
    Rule("entry-accelerators", "accelerators lists each process once, each accelerator once.", entry_accelerators),
]
