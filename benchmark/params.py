"""A variant's parameters: one complete YAML file, read into frozen dataclasses that check every value.

There is no inheritance: a key that is missing, unknown or out of range is an error that names it. The complete set goes
into the log, the checkpoint and the run's record; `Params.sha256` identifies it in one value.

A parameter that was added after results were published has a default, which is always the value at which it changes
nothing. With that value it is left out of the hash and of everything written, so that earlier files, logs, records and
checkpoints keep their meaning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from benchmark.submission import Division
from benchmark.yaml_text import Plain, read_yaml
from common.errors import UserError
from common.formats import decode

VARIANTS_DIR = Path(__file__).parent / "variants"
MAX_EPOCHS_CAP = 10
"""No variant may train longer: the MLPerf speech reference gives up after ten epochs."""


def _require(holds: bool, key: str, rule: str) -> None:
    if not holds:
        raise UserError(f"{rule}", where=key)


@dataclass(frozen=True, kw_only=True)
class DataParams:
    """The dataset: `folder` in DATA_DIR, and the names of the training and evaluation splits."""

    folder: str
    train_split: str
    eval_split: str

    def __post_init__(self) -> None:
        _require(
            bool(self.folder) and "/" not in self.folder and not self.folder.startswith("."),
            "data.folder",
            "must be a folder name without a path",
        )


@dataclass(frozen=True, kw_only=True)
class FeatureParams:
    """The input features: log1p magnitudes of a Hamming-window STFT, or MFCC; times in seconds."""

    kind: Literal["spectrogram", "mfcc"]
    sample_rate_hz: int
    window_s: float
    hop_s: float
    mfcc_coefficients: int

    def __post_init__(self) -> None:
        _require(
            self.sample_rate_hz == 16_000, "features.sample_rate_hz", "must be 16000: datasets are stored at this rate"
        )
        _require(
            0 < self.hop_s <= self.window_s <= 0.1, "features.window_s", "must satisfy 0 < hop_s <= window_s <= 0.1"
        )
        _require(1 <= self.mfcc_coefficients <= 80, "features.mfcc_coefficients", "must be in 1..80")


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    """Augmentation of training audio, drawn per utterance and epoch. A null `noise_dir` and zero masks mean off."""

    tempo_min: float
    tempo_max: float
    gain_min_db: float
    gain_max_db: float
    noise_dir: str | None
    noise_probability: float
    noise_level_min: float
    noise_level_max: float
    spec_time_masks: int
    spec_time_width_max_s: float
    spec_freq_masks: int
    spec_freq_width_max: int

    def __post_init__(self) -> None:
        _require(
            0.5 <= self.tempo_min <= self.tempo_max <= 2,
            "augment.tempo_min",
            "must satisfy 0.5 <= tempo_min <= tempo_max <= 2",
        )
        _require(
            -60 <= self.gain_min_db <= self.gain_max_db <= 60,
            "augment.gain_min_db",
            "must satisfy -60 <= gain_min_db <= gain_max_db <= 60",
        )
        _require(0 <= self.noise_probability <= 1, "augment.noise_probability", "must be in 0..1")
        _require(
            0 <= self.noise_level_min <= self.noise_level_max <= 1,
            "augment.noise_level_min",
            "must satisfy 0 <= noise_level_min <= noise_level_max <= 1",
        )
        _require(
            self.spec_time_masks >= 0 and self.spec_freq_masks >= 0, "augment.spec_time_masks", "must not be negative"
        )
        _require(
            self.spec_time_width_max_s >= 0 and self.spec_freq_width_max >= 0,
            "augment.spec_time_width_max_s",
            "must not be negative",
        )


@dataclass(frozen=True, kw_only=True)
class ModelParams:
    """The network's architecture. `batch_norm_between`: BatchNorm between GRU layers; `mask_padding` excludes padded
    frames from the GRUs and their BatchNorm.
    """

    conv_channels: int
    rnn_hidden: int
    rnn_layers: int
    bidirectional: bool
    batch_norm_between: bool
    mask_padding: bool
    sync_batch_norm: bool

    def __post_init__(self) -> None:
        _require(1 <= self.conv_channels <= 1024, "model.conv_channels", "must be in 1..1024")
        _require(1 <= self.rnn_hidden <= 16_384, "model.rnn_hidden", "must be in 1..16384")
        _require(1 <= self.rnn_layers <= 32, "model.rnn_layers", "must be in 1..32")


@dataclass(frozen=True, kw_only=True)
class OptimizerParams:
    """The optimizer. `schedule: anneal` divides the learning rate by `anneal` after each epoch; `warmup_linear` rises
    over `warmup_steps` and falls linearly to `final_share` of the rate at the last step of `max_epochs`.
    """

    name: Literal["sgd", "adamw"]
    learning_rate: float
    momentum: float
    nesterov: bool
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float
    schedule: Literal["anneal", "warmup_linear"]
    anneal: float
    warmup_steps: int
    final_share: float

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < 100, "optimizer.learning_rate", "must be in 0..100, excluding 0")
        _require(0 <= self.momentum < 1, "optimizer.momentum", "must be in 0..1, excluding 1")
        _require(not self.nesterov or self.momentum > 0, "optimizer.nesterov", "needs a momentum above 0")
        _require(
            0 <= self.beta1 < 1 and 0 <= self.beta2 < 1,
            "optimizer.beta1",
            "beta1 and beta2 must be in 0..1, excluding 1",
        )
        _require(self.epsilon > 0, "optimizer.epsilon", "must be above 0")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", "must not be negative")
        _require(self.clip_norm > 0, "optimizer.clip_norm", "must be above 0")
        _require(self.anneal >= 1, "optimizer.anneal", "must be at least 1")
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", "must not be negative")
        _require(0 <= self.final_share <= 1, "optimizer.final_share", "must be in 0..1")


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """Training. `batch_size` counts utterances of one optimizer step over all processes; `target_wer` is in percent.

    `order`: `sorted` is the reference's (by length, the same each epoch); `buckets` forms batches of similar length
    in random order; `sorted_then_buckets` sorts the first epoch only.
    """

    batch_size: int
    eval_batch_size: int
    max_epochs: int
    target_wer: float
    order: Literal["sorted", "sorted_then_buckets", "buckets"]
    precision: Literal["fp32", "tf32", "bf16"]

    def __post_init__(self) -> None:
        _require(1 <= self.batch_size <= 65_536, "train.batch_size", "must be in 1..65536")
        _require(1 <= self.eval_batch_size <= 65_536, "train.eval_batch_size", "must be in 1..65536")
        _require(1 <= self.max_epochs <= MAX_EPOCHS_CAP, "train.max_epochs", f"must be in 1..{MAX_EPOCHS_CAP}")
        _require(0 <= self.target_wer <= 100, "train.target_wer", "must be in 0..100 (percent)")


@dataclass(frozen=True, kw_only=True)
class Params:
    """Everything that determines a run's mathematics, except the seed and the number of processes."""

    variant: str
    division: Division
    data: DataParams
    features: FeatureParams
    augment: AugmentParams
    model: ModelParams
    optimizer: OptimizerParams
    train: TrainParams

    def as_dict(self) -> dict[str, object]:
        """Nested plain values, as in the YAML file, without parameters at the default that changes nothing."""
        return plain(self)

    def flat(self) -> dict[str, object]:
        """The same with dotted keys: `{"model.rnn_layers": 3, ...}`, in the order of definition."""
        return _flat(self.as_dict())

    @property
    def sha256(self) -> str:
        """Hash of the values (not of the file's text): equal if and only if the mathematics is equal."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """YAML text that `load_params` reads back as an equal object."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False)


def plain(part: typing.Any) -> dict[str, typing.Any]:
    """Parameters, or one group of them, as plain values, without those at the default that changes nothing."""
    written: dict[str, typing.Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            # A group of later parameters only may be empty, and is left out.
            written |= {field.name: group} if (group := plain(value)) else {}
        elif value != field.default:
            written[field.name] = value
    return written


def _flat(tree: dict[str, typing.Any]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat.update(
            {f"{key}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
        )
    return flat


def _neutral(cls: typing.Any) -> dict[str, typing.Any]:
    hints = typing.get_type_hints(cls)
    groups = {name: _neutral(hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    defaults = {field.name: field.default for field in dataclasses.fields(cls) if field.name not in groups}
    return groups | {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}


NEUTRAL: dict[str, object] = _flat(_neutral(Params))
"""The default of each later parameter, at which it changes nothing, by dotted key."""


def variant_names() -> list[str]:
    """The variants that come with the benchmark."""
    return sorted(path.stem for path in VARIANTS_DIR.glob("*.yaml"))


def load_variant(name: str) -> Params:
    """The parameters of a variant by its name; UserError listing the variants for an unknown name."""
    if name not in variant_names():
        raise UserError(
            f"there is no variant {name!r}", where="VARIANT", remedy=f"choose one of {', '.join(variant_names())}"
        )
    return load_params(VARIANTS_DIR / f"{name}.yaml")


def load_params(path: Path) -> Params:
    """Read and check a parameter file; every error is a UserError that names the file and the key."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such parameter file", where=path) from None
    except UnicodeDecodeError:
        raise UserError("not a text file in UTF-8", where=path) from None
    return parse_params(text, path)


def parse_params(text: str, source: object) -> Params:
    """Parse YAML text as in YAML 1.2, with decimal numbers only; errors name `source` and the line."""
    return _params(*read_yaml(text, source), source)


def params_from_dict(tree: object, source: object) -> Params:
    """Build Params from nested plain values.

    Raises UserError naming the first key that is unknown, missing or out of range.
    """
    return _params(tree, {}, source)


def _params(tree: object, lines: dict[str, int], source: object) -> Params:
    try:
        return decode(Params, tree, strict=True, leaf=_leaf)
    except UserError as error:
        place = f"{source}:{lines[error.where]}" if error.where in lines else source
        raise UserError(
            error.what, where=f"{place}: {error.where}" if error.where else place, remedy=error.remedy
        ) from None


def _leaf(kind: type, value: object, key: str) -> object:
    """A single value of a parameter file: converts unquoted text to the parameter's type."""
    if value is None and kind is str:
        raise UserError("must be text, not null", where=key, remedy="put it in quotes if null or ~ is the text")
    return _READ[kind](value, key) if isinstance(value, Plain) else value


# The value of an unquoted scalar by its parameter's type. Forms that YAML 1.1, YAML 1.2 and people read differently are
# errors: 010, 0x10, 1_000, 12:30, yes and off.
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*|(?=\.[0-9]))(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def _whole(text: str, key: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise UserError(f"must be a whole number, not {text}", where=key, remedy="write it in decimals, such as 1000")
    return int(text)


def _decimal(text: str, key: str) -> float:
    if not _DECIMAL.fullmatch(text):
        raise UserError(
            f"must be a number, not {text}", where=key, remedy="write it in decimals, such as 16, 0.5 or 3e-4"
        )
    return float(text)


def _truth(text: str, key: str) -> bool:
    if text not in _TRUTH:
        raise UserError(f"must be true or false, not {text}", where=key, remedy="write true or false, without quotes")
    return _TRUTH[text]


_READ: dict[type, typing.Callable[[str, str], object]] = {
    str: lambda text, _: str(text),
    int: _whole,
    float: _decimal,
    bool: _truth,
}
