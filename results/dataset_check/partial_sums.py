"""The sums of an unfinished verification, kept beside the data set so that the next one goes on from them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from common.errors import UserError
from datasets.checksums.digest import BatchSums
from datasets.dataset import writable_beside


class Cache:
    """Sums of batches by key, appended to `NAME.verifying.jsonl` (`writable_beside`) as they come."""

    def __init__(self, folder: Path) -> None:
        try:
            self.path = writable_beside(folder, ".verifying.jsonl")
            self._file = open(self.path, "ab")
        except OSError as error:
            raise UserError(
                f"the cache cannot be kept ({error.strerror})", where=error.filename, remedy="leave --cache out"
            ) from None
        self._kept: dict[str, BatchSums] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_bytes().splitlines():
                # Whatever is no row of ours, such as the one that was being written when it stopped, is read anew.
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    row = json.loads(line)
                    lines = tuple(text.encode("utf-8", "surrogateescape") for text in row["lines"])
                    self._kept[row["key"]] = BatchSums(row["crc"], row["plain_crc"], row["length"], lines)
        self._file.write(b"\n")

    def get(self, key: bytes) -> BatchSums | None:
        """The sums kept under `key`, or None."""
        return self._kept.get(key.hex())

    def put(self, key: bytes, sums: BatchSums) -> None:
        """Keep `sums` under `key`, at once."""
        lines = [line.decode("utf-8", "surrogateescape") for line in sums.lines]
        row = {
            "key": key.hex(), "crc": sums.crc, "plain_crc": sums.plain_crc, "length": sums.length, "lines": lines,
        }  # fmt: skip
        self._file.write(json.dumps(row).encode("ascii") + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """Forget everything: the verification is finished."""
        self._file.close()
        self.path.unlink(missing_ok=True)
