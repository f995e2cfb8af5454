"""Sums of an unfinished verification, stored next to the dataset so that the next one resumes from them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from common.errors import UserError
from datasets.checksums.digest import BatchSums
from datasets.dataset import writable_sibling_path


class Cache:
    """Sums of batches by key, appended to `NAME.verifying.jsonl` (`writable_sibling_path`) as they are computed."""

    def __init__(self, folder: Path) -> None:
        try:
            self.path = writable_sibling_path(folder, ".verifying.jsonl")
            self._file = open(self.path, "ab")
        except OSError as error:
            raise UserError(
                f"the cache cannot be written ({error.strerror})", where=error.filename, remedy="run without --cache"
            ) from None
        self._kept: dict[str, BatchSums] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_bytes().splitlines():
                # Skip invalid rows, such as one that was being written when the process stopped.
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    row = json.loads(line)
                    lines = tuple(text.encode("utf-8", "surrogateescape") for text in row["lines"])
                    self._kept[row["key"]] = BatchSums(row["crc"], row["plain_crc"], row["length"], lines)
        self._file.write(b"\n")

    def get(self, key: bytes) -> BatchSums | None:
        """The sums stored for `key`, or None."""
        return self._kept.get(key.hex())

    def put(self, key: bytes, sums: BatchSums) -> None:
        """Store `sums` for `key` immediately."""
        lines = [line.decode("utf-8", "surrogateescape") for line in sums.lines]
        row = {
            "key": key.hex(), "crc": sums.crc, "plain_crc": sums.plain_crc, "length": sums.length, "lines": lines,
        }  # fmt: skip
        self._file.write(json.dumps(row).encode("ascii") + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """Delete the cache: the verification is finished."""
        self._file.close()
        self.path.unlink(missing_ok=True)
