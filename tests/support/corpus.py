"""A tiny dataset of tones, made quickly: one pitch per letter, so that a network can learn from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import soundfile

from benchmark.params import Params, load_variant
from datasets.dataset import Dataset, Split, TreeDigest, write_description
from datasets.manifest import SAMPLE_RATE_HZ, Manifest, Utterance, write_jsonl

WORDS = ("BAD", "CAB", "DAB", "FEED", "ACE")


def speak(text: str, rng: np.random.Generator) -> np.ndarray:
    """About 0.15 s of tone per letter, silence for a space, and a little noise."""
    pieces = []
    for letter in text:
        time_s = np.arange(int(SAMPLE_RATE_HZ * rng.uniform(0.12, 0.18))) / SAMPLE_RATE_HZ
        pitch_hz = 0 if letter == " " else 300 + 150 * (ord(letter) - ord("A"))
        pieces.append(0.3 * np.sin(2 * np.pi * pitch_hz * time_s))
    audio = np.concatenate(pieces)
    return (audio + 0.01 * rng.standard_normal(len(audio))).astype(np.float32)


def tiny_corpus(folder: Path, train: int = 24, val: int = 7, seed: int = 0) -> Dataset:
    """Write a dataset of `train` and `val` utterances of two to four words into `folder`."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, count in (("train", train), ("val", val)):
        (folder / split).mkdir(parents=True)
        utterances = []
        for number in range(count):
            text = " ".join(rng.choice(WORDS, rng.integers(2, 5)))
            audio = speak(text, rng)
            name = f"{split}/{split}-{number:03d}.flac"
            soundfile.write(folder / name, audio, SAMPLE_RATE_HZ, subtype="PCM_16")
            utterances.append(Utterance(f"{split}-{number:03d}", name, len(audio) / SAMPLE_RATE_HZ, text))
        manifest = Manifest.of(folder, utterances)
        write_jsonl(manifest, folder / f"tiny_{split}_manifest.jsonl")
        splits[split] = Split(f"tiny_{split}_manifest.jsonl", "", count, manifest.duration_s, 1)
    dataset = Dataset(folder, "tiny", "flac", splits, TreeDigest("0" * 64, 0, 0, 0), {})
    write_description(dataset)
    return dataset


def changed_params(path: Path | None = None, **changes: object) -> Params:
    """The mini variant with `changes`, keyed by dotted names with `__` for the dot; written to `path` if given."""
    params = load_variant("mini")
    for name, value in changes.items():
        section, _, key = name.partition("__")
        replaced = dataclasses.replace(getattr(params, section), **{key: value}) if key else value
        params = dataclasses.replace(params, **{section: replaced})
    if path:
        path.write_text(params.dump())
    return params


def tiny_params(path: Path | None = None, **changes: object) -> Params:
    """`changed_params` of a tiny network with tiny batches and three epochs."""
    tiny: dict[str, object] = {
        "model__conv_channels": 2,
        "model__rnn_hidden": 16,
        "train__batch_size": 4,
        "train__eval_batch_size": 3,
        "train__max_epochs": 3,
        "train__target_wer": 0.0,
        "optimizer__warmup_steps": 2,
    }
    return changed_params(path, **(tiny | changes))
