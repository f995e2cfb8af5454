"""LibriSpeech's published archives (OpenSLR SLR12, CC BY 4.0): the table of archives, their mirrors, and named sets.

Sizes are those of the files on the servers. SHA-256 sums are the constants in torchaudio's `datasets/librispeech.py`.
Utterances, hours and speakers are from the corpus's paper (Panayotov et al., ICASSP 2015) and README.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from common.errors import UserError

if TYPE_CHECKING:
    from datasets.librispeech.fetch import RemoteFile


@dataclass(frozen=True)
class Archive:
    """One subset of the corpus, published as `NAME.tar.gz` of `bytes` bytes; part of the dataset's `split`."""

    name: str
    split: str
    bytes: int
    utterances: int
    hours: float
    speakers: int
    sha256: str

    @property
    def remote_file(self) -> RemoteFile:
        """The archive as a file to download."""
        from datasets.librispeech.fetch import RemoteFile

        return RemoteFile(self.name + ".tar.gz", self.bytes, self.sha256)


# fmt: off
PUBLISHED = (
    Archive("dev-clean", "val", 337_926_286, 2_703, 5.4, 40, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
    Archive("dev-other", "val", 314_305_928, 2_864, 5.1, 33, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
    Archive("test-clean", "test", 346_663_984, 2_620, 5.4, 40, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
    Archive("test-other", "test", 328_757_843, 2_939, 5.3, 33, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
    Archive("train-clean-100", "train", 6_387_309_499, 28_539, 100.6, 251,
            "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
    Archive("train-clean-360", "train", 23_049_477_885, 104_014, 363.6, 921,
            "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
    Archive("train-other-500", "train", 30_593_501_606, 148_688, 496.7, 1_166,
            "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
)
# fmt: on

MIRRORS = (
    "https://www.openslr.org/resources/12/",
    "https://us.openslr.org/resources/12/",
    "https://openslr.elda.org/resources/12/",
)

_SMALL = ("train-clean-100", "dev-clean", "test-clean")
SETS: dict[str, tuple[str, ...]] = {
    "all": tuple(archive.name for archive in PUBLISHED),
    "training": ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "test-clean"),
    "clean": ("train-clean-100", "train-clean-360", "dev-clean", "test-clean"),
    "clean_small": _SMALL,
    "clean_dev": _SMALL,
    "other": ("train-other-500", "dev-other", "test-other"),
    "clean_test": ("test-clean",),
}
"""The sets that can be downloaded; the names are the MLPerf reference's."""


def load_table(path: Path) -> tuple[Archive, ...]:
    """A table that replaces PUBLISHED: a JSON list of objects with Archive's fields; UserError if it is invalid."""
    try:
        return tuple(Archive(**row) for row in orjson.loads(path.read_bytes()))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise UserError(f"not a table of archives ({error})", where=path) from None


def select(table: Iterable[Archive], names: Iterable[str]) -> list[Archive]:
    """The archives of `names` that are in the table, largest last (so that errors show early)."""
    chosen = set(names)
    return sorted((archive for archive in table if archive.name in chosen), key=lambda archive: archive.bytes)
