"""Archives in LibriSpeech's exact layout, with real transcripts and generated audio, and their table."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from datasets.librispeech.archives import PUBLISHED, Archive
from tests.conftest import DATA

TRANSCRIPTS = sorted((DATA / "librispeech-dev-clean-text").glob("dev-clean/*/*/*.trans.txt"))
SPLITS = {archive.name: archive.split for archive in PUBLISHED}


@lru_cache
def flac_bytes(samples: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    tone = np.sin(np.arange(samples) * (0.05 + seed % 40 / 200)) * 6000 + rng.normal(0, 200, samples)
    out = io.BytesIO()
    soundfile.write(out, tone.astype(np.int16), 16_000, format="FLAC")
    return out.getvalue()


def real_chapters(count: int, offset: int = 0) -> list[tuple[str, list[tuple[str, str]]]]:
    """(SPEAKER-CHAPTER, [(utterance id, text)]) of `count` real chapters."""
    files = TRANSCRIPTS[offset : offset + count]
    assert len(files) == count
    return [
        (f.name.removesuffix(".trans.txt"), [tuple(x.split(" ", 1)) for x in f.read_text().splitlines()]) for f in files
    ]


def build(
    folder: Path,
    name: str,
    chapters: list,
    *,
    audio: Callable[[str, str], bytes] | None = None,
    extra: Callable[[tarfile.TarFile], None] | None = None,
    edit: Callable[[str, bytes], bytes | None] = lambda path, data: data,
) -> Archive:
    """Write `folder/NAME.tar.gz`; `audio(id, words)` gives FLAC bytes, `edit` changes or drops (None) members, `extra` adds."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.tar.gz"
    audio = audio or (lambda utterance, words: flac_bytes(1600 + 37 * len(words), hash_of(utterance)))
    count = 0
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:

        def add(inside: str, data: bytes) -> None:
            changed = edit(inside, data)
            if changed is not None:
                member = tarfile.TarInfo("LibriSpeech/" + inside)
                member.size = len(changed)
                tar.addfile(member, io.BytesIO(changed))

        add("README.TXT", b"about the corpus")
        add("SPEAKERS.TXT", b"; who speaks")
        for chapter, utterances in chapters:
            where = f"{name}/{chapter.replace('-', '/')}"
            for utterance, words in utterances:
                add(f"{where}/{utterance}.flac", audio(utterance, words))
                count += 1
            add(f"{where}/{chapter}.trans.txt", "".join(f"{u} {w}\n" for u, w in utterances).encode())
        if extra:
            extra(tar)
    return published(path, name, count, len({chapter.split("-")[0] for chapter, _ in chapters}))


def published(path: Path, name: str, utterances: int, speakers: int) -> Archive:
    data = path.read_bytes()
    return Archive(name, SPLITS[name], len(data), utterances, 0.1, speakers, hashlib.sha256(data).hexdigest())


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 50


def write_table(archives: list[Archive], path: Path) -> Path:
    path.write_text(json.dumps([archive.__dict__ for archive in archives]))
    return path
