"""Parameter files: every key is needed, checked and named in its error; any text ends in parameters or in a UserError."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from dataclasses import dataclass

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmark.params import (
    NEUTRAL,
    VARIANTS_DIR,
    Params,
    TrainParams,
    load_params,
    load_variant,
    params_from_dict,
    parse_params,
    variant_names,
)
from common.errors import UserError
from common.formats import decode

TREE = load_variant("mini").as_dict()
NEEDED = [tuple(key.split(".")) for key in load_variant("mini").flat() if key not in NEUTRAL]
NAMES = [*(".".join(key) for key in NEEDED), *NEUTRAL]

BAD_VALUES = {
    "variant": [1, None, True],
    "division": ["Closed", "", None, 1],
    "data.folder": ["", "a/b", "..", ".hidden", None, 3],
    "data.train_split": [None, 1, ["train"]],
    "data.eval_split": [None, 1],
    "features.kind": ["fbank", None],
    "features.sample_rate_hz": [8000, 16000.0, "16000", None],
    "features.window_s": [0, -0.02, 0.2, 0.005, float("nan"), "0.02"],
    "features.hop_s": [0, -0.01, 0.03, float("inf")],
    "features.mfcc_coefficients": [0, 81, 13.0, True],
    "augment.tempo_min": [0.4, 1.1, float("nan")],
    "augment.tempo_max": [2.1, 0.9, "1"],
    "augment.gain_min_db": [-61, 9, float("-inf")],
    "augment.gain_max_db": [61, -7],
    "augment.noise_dir": [1, True, ["a"]],
    "augment.noise_probability": [-0.1, 1.1, None],
    "augment.noise_level_min": [-0.1, 0.6],
    "augment.noise_level_max": [1.1, -0.1],
    "augment.spec_time_masks": [-1, 1.0],
    "augment.spec_time_width_max_s": [-0.1],
    "augment.spec_freq_masks": [-1, None],
    "augment.spec_freq_width_max": [-1, 2.5],
    "model.conv_channels": [0, 1025, 32.0],
    "model.rnn_hidden": [0, 16385, "128"],
    "model.rnn_layers": [0, 33],
    "model.bidirectional": [1, "yes", None],
    "model.batch_norm_between": [0],
    "model.mask_padding": ["true"],
    "model.sync_batch_norm": [None],
    "optimizer.name": ["adam", None],
    "optimizer.learning_rate": [0, -1, 100, float("nan"), float("inf"), 10**400],
    "optimizer.momentum": [1, -0.1, 0],  # 0: nesterov needs one
    "optimizer.nesterov": [1],
    "optimizer.beta1": [1, -0.1],
    "optimizer.beta2": [1],
    "optimizer.epsilon": [0, -1e-8],
    "optimizer.weight_decay": [-1],
    "optimizer.clip_norm": [0, -5],
    "optimizer.schedule": ["cosine"],
    "optimizer.anneal": [0.9, 0],
    "optimizer.warmup_steps": [-1, 1.5],
    "optimizer.final_share": [-0.1, 1.1],
    "train.batch_size": [0, 65537, 8.0],
    "train.eval_batch_size": [0, None],
    "train.max_epochs": [0, 11, "10"],
    "train.target_wer": [-1, 101, None, float("nan")],
    "train.order": ["random"],
    "train.precision": ["fp16", "float32"],
}


def changed(key: tuple[str, ...], value: object) -> dict:
    tree = copy.deepcopy(TREE)
    inner = tree
    for part in key[:-1]:
        inner = inner[part]
    inner[key[-1]] = value
    return tree


def removed(key: tuple[str, ...]) -> dict:
    tree = copy.deepcopy(TREE)
    inner = tree
    for part in key[:-1]:
        inner = inner[part]
    del inner[key[-1]]
    return tree


def test_every_key_has_its_bad_values_here():
    assert sorted(BAD_VALUES) == sorted(NAMES)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values])
def test_a_bad_value_is_refused_and_its_key_named(name, value):
    with pytest.raises(UserError) as caught:
        params_from_dict(changed(tuple(name.split(".")), value), "my.yaml")
    group = name.rpartition(".")[0]
    # A rule over several keys names one of them.
    assert re.match(rf"my\.yaml: {re.escape(group)}\.?\w+", caught.value.where)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", NEEDED, ids=".".join)
def test_a_missing_key_is_named(key):
    with pytest.raises(UserError, match="missing key") as caught:
        params_from_dict(removed(key), "my.yaml")
    assert caught.value.where == "my.yaml: " + ".".join(key)


@pytest.mark.parametrize("group", ["", "data.", "features.", "augment.", "model.", "optimizer.", "train."])
def test_an_unknown_key_is_named_with_the_known_ones(group):
    with pytest.raises(UserError, match="unknown key") as caught:
        params_from_dict(changed((*filter(None, [group[:-1]]), "batchsize"), 1), "my.yaml")
    assert caught.value.where == f"my.yaml: {group}batchsize"
    assert "known here: " in str(caught.value)


@pytest.mark.parametrize("group", ["data", "features", "augment", "model", "optimizer", "train"])
@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_a_group_that_is_no_mapping_is_named(group, value):
    with pytest.raises(UserError, match="expected the keys") as caught:
        params_from_dict(changed((group,), value), "my.yaml")
    assert caught.value.where == f"my.yaml: {group}"


@pytest.mark.parametrize("name", variant_names())
def test_every_variant_loads_and_reads_back_what_it_writes(name):
    params = load_variant(name)
    assert params.variant == name
    assert parse_params(params.dump(), "again") == params
    assert params_from_dict(params.as_dict(), "again") == params


def test_the_variants_of_the_design_are_there():
    assert {"librispeech", "librispeech_5bi", "librispeech_open", "mini", "synthetic"} <= set(variant_names())


def test_the_closed_variant_is_the_reference():
    flat = load_variant("librispeech").flat()
    expected = {
        "division": "closed",
        "features.window_s": 0.02,
        "features.hop_s": 0.01,
        "augment.tempo_min": 0.85,
        "augment.tempo_max": 1.15,
        "augment.gain_min_db": -6,
        "augment.gain_max_db": 8,
        "augment.noise_dir": None,
        "model.conv_channels": 32,
        "model.rnn_hidden": 2560,
        "model.rnn_layers": 3,
        "model.bidirectional": False,
        "model.batch_norm_between": False,
        "model.mask_padding": False,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 1e-4,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.clip_norm": 400,
        "optimizer.weight_decay": 0,
        "optimizer.schedule": "anneal",
        "optimizer.anneal": 1.1,
        "train.batch_size": 8,
        "train.max_epochs": 10,
        "train.target_wer": 23,
        "train.order": "sorted",
        "train.precision": "fp32",
    }
    assert {key: flat[key] for key in expected} == expected


def test_the_hash_follows_the_values_and_not_the_spelling():
    text = (VARIANTS_DIR / "mini.yaml").read_text()
    params = parse_params(text, "a")
    respelt = parse_params(
        "# a remark\n" + text.replace("0.003", "3.0e-3").replace("clip_norm: 5.0", "clip_norm: 5"), "b"
    )
    assert respelt == params and respelt.sha256 == params.sha256
    for key, value in (("model.rnn_hidden", 129), ("train.precision", "tf32"), ("augment.noise_dir", "noise")):
        assert params_from_dict(changed(tuple(key.split(".")), value), "c").sha256 != params.sha256


@dataclass(frozen=True, kw_only=True)
class LaterTrainParams(TrainParams):
    """Training as a later version of the benchmark might have it, with one parameter more."""

    accumulation: int = 1


@dataclass(frozen=True, kw_only=True)
class DistillationParams:
    """A whole group that a later version might have."""

    temperature: float = 1.0
    teacher: str | None = None


@dataclass(frozen=True, kw_only=True)
class LaterParams(Params):
    train: LaterTrainParams
    distillation: DistillationParams


def test_a_later_parameter_changes_nothing_where_it_changes_nothing():
    mini = load_variant("mini")
    for tree in (TREE, changed(("train", "accumulation"), 1), TREE | {"distillation": {"temperature": 1}}):
        later = decode(LaterParams, tree, strict=True)
        assert later.train.accumulation == 1 and later.distillation == DistillationParams()
        assert (later.sha256, later.as_dict(), later.flat(), later.dump()) == (
            mini.sha256, mini.as_dict(), mini.flat(), mini.dump(),
        )  # fmt: skip
    other = decode(LaterParams, changed(("train", "accumulation"), 2), strict=True)
    assert other.sha256 != mini.sha256 and other.flat()["train.accumulation"] == 2
    assert decode(LaterParams, other.as_dict(), strict=True) == other
    other = decode(LaterParams, TREE | {"distillation": {"teacher": "a.pt"}}, strict=True)
    assert other.sha256 != mini.sha256 and other.as_dict()["distillation"] == {"teacher": "a.pt"}
    with pytest.raises(UserError, match="must be a whole number, not 'two'"):
        decode(LaterParams, changed(("train", "accumulation"), "two"), strict=True)


def test_params_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_variant("mini").train.batch_size = 1


def test_a_key_given_twice_is_refused_with_its_line():
    text = (VARIANTS_DIR / "mini.yaml").read_text() + "variant: other\n"
    with pytest.raises(UserError, match="occurs twice") as caught:
        parse_params(text, "my.yaml")
    assert caught.value.where == f"my.yaml:{len(text.splitlines())}"


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no such parameter file"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        load_params(tmp_path / "bytes.yaml")
    with pytest.raises(UserError, match="there is no variant"):
        load_variant("../variants/mini")
    with pytest.raises((UserError, OSError)):
        load_params(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "- a\n- b",
        "variant: [",
        "a: &a [*a]",
        "? [1, 2]\n: 3",
        "? {a: 1}\n: 3",
        "!!python/object/apply:os.system ['true']",
        "\t",
        "a: 0o9\n",
        "1: 2\n",
        "d: 2024-99-99",
        "x: " + "[" * 3000,
        "variant: \x00",
        "a: !!float x",
        "<<: 3",
        "a: !!timestamp x",
        "!!binary a",
        "a: !!int ''",
        "a: !!bool x",
        "a: &a x",
        "a: *a",
        '"\\ud800": x',
    ],
)
def test_odd_yaml_ends_in_a_user_error(text):
    with pytest.raises(UserError):
        parse_params(text, "my.yaml")


def mini_with(key: str, text: str) -> tuple[str, int]:
    """mini's file with other text behind one key, and the line of that key."""
    lines = (VARIANTS_DIR / "mini.yaml").read_text().splitlines()
    group, _, name = key.rpartition(".")
    start = lines.index(f"{group}:") if group else 0
    (place,) = [n for n, line in enumerate(lines) if n >= start and line.split(":")[0].strip() == name][:1]
    lines[place] = f"{lines[place].split(':')[0]}: {text}"
    return "\n".join(lines), place + 1


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optimizer.learning_rate", "3e-3", 0.003),
        ("optimizer.learning_rate", "1E-05", 1e-5),
        ("optimizer.learning_rate", ".5", 0.5),
        ("optimizer.clip_norm", "5.", 5.0),
        ("optimizer.clip_norm", "+400  # a remark", 400.0),
        ("augment.gain_min_db", "-6", -6.0),
        ("optimizer.warmup_steps", "0", 0),
        ("model.bidirectional", "TRUE", True),
        ("augment.noise_dir", "~", None),
        ("augment.noise_dir", "", None),
    ],
)
def test_a_number_or_boolean_is_read_as_written(key, text, value):
    found = parse_params(mini_with(key, text)[0], "my.yaml").flat()[key]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("train.batch_size", ["010", "0x10", "0o20", "0b10", "1_000", "1:30", "1e3", "16.0", "'16'", "yes", "9" * 5000, ""]),
        ("optimizer.learning_rate", ["00.1", "1_0.5", "0:30", "0x1", "1,5", ".", "e3", ".inf", ".NaN", "1e999", '"0.1"', "~"]),
        ("model.bidirectional", ["yes", "no", "On", "off", "y", "1", "'true'", "tRUE", "null"]),
        ("division", ["no", "[closed]", "null"]),
        ("train.precision", ["32", "fp_32"]),
        ("data.folder", ["null", "~", "", "[a]", "{a: b}"]),
    ],
)  # fmt: skip
def test_an_ambiguous_form_is_refused_with_its_line(key, texts):
    for text in texts:
        content, line = mini_with(key, text)
        with pytest.raises(UserError) as caught:
            parse_params(content, "my.yaml")
        assert caught.value.where in (f"my.yaml:{line}: {key}", f"my.yaml:{line}: {key}.a"), text


@pytest.mark.parametrize("text", ["010", "2.10", "no", "on", "12:30", "1_000", "1e3", "0x10", "2024-01-01", "<<", "="])
def test_a_name_is_never_altered(text):
    content = "".join(
        f"{line.split(':')[0]}: {text}\n"
        if line.split(":")[0].strip() in ("variant", "folder", "eval_split", "noise_dir")
        else line
        for line in (VARIANTS_DIR / "mini.yaml").read_text().splitlines(keepends=True)
    )
    params = parse_params(content, "my.yaml")
    names = [params.variant, params.data.folder, params.data.eval_split, params.augment.noise_dir]
    assert names == [text] * 4 and {type(name) for name in names} == {str}
    assert parse_params(params.dump(), "again") == params


@pytest.mark.parametrize(
    "text", ["null", "~", "", "true", "010", "# x", "a: b", " x ", "&a", "\x85", "\u2028", "\U0001f600"]
)
def test_any_name_is_read_back_from_the_written_file(text):
    params = params_from_dict(changed(("augment", "noise_dir"), text), "my.yaml")
    assert parse_params(params.dump(), "again") == params


@pytest.mark.parametrize("name", variant_names())
def test_the_files_of_the_variants_mean_the_same_to_pyyaml(name):
    text = (VARIANTS_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    assert params_from_dict(yaml.safe_load(text), name) == load_variant(name)


yaml_leaf = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.binary(max_size=4)
)
yaml_tree = st.recursive(
    yaml_leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(yaml_leaf, inner, max_size=3)
)


@settings(max_examples=60)
@given(st.text(max_size=80))
@example("? - 1\n: 2")
def test_any_text_ends_in_a_user_error(text):
    with pytest.raises(UserError):
        parse_params(text, "my.yaml")


@settings(max_examples=60)
@given(st.sampled_from(NAMES), yaml_tree)
def test_any_value_under_any_key_is_accepted_or_refused(key, value):
    text = yaml.safe_dump(changed(tuple(key.split(".")), value), sort_keys=False)
    try:
        params = parse_params(text, "my.yaml")
    except UserError:
        return
    assert isinstance(params, Params)
    assert parse_params(params.dump(), "again") == params


@settings(max_examples=60)
@given(st.integers(0, 1400), st.integers(0, 40), st.text(max_size=12))
def test_any_damage_to_a_variants_text_is_accepted_or_refused(start, length, replacement):
    text = (VARIANTS_DIR / "mini.yaml").read_text()
    damaged = text[:start] + replacement + text[start + length :]
    with contextlib.suppress(UserError):
        assert isinstance(parse_params(damaged, "my.yaml"), Params)
