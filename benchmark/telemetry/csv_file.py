"""telemetry.csv: one row per sample and device, units in the column names.

Every line is complete, even if the run is killed.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmark.telemetry.readings import GPU_READINGS, HOST_READINGS, TRAINER_READINGS

PLACE_COLUMNS = ["time_unix_s", "elapsed_s", "device", "uuid", "mark"]
"""Time and device of a row; `device` is host, trainer, gpu0, gpu1 ... or mark."""
CSV_COLUMNS = PLACE_COLUMNS + list(
    dict.fromkeys(reading.name for reading in (*HOST_READINGS, *TRAINER_READINGS, *GPU_READINGS))
)
"""Flags are written as their names, joined by `|`; a counter counts up from the start of the machine or driver. Empty
if not measured or not applicable."""
HEADER_BYTES = 1 << 16
"""Upper bound of the length of a file's first line."""


class CsvFile:
    """Appends complete samples, one system call each, so that a killed run leaves complete lines; stops at the first
    error.

    An existing file keeps the columns of its first line: another version may have started it.
    """

    def __init__(self, path: Path, notice: Callable[[str], None]) -> None:
        self._path, self._notice = path, notice
        self._columns = CSV_COLUMNS
        self._file: int | None = None
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            size = os.fstat(self._file).st_size
            if size == 0:
                self.write([{name: name for name in CSV_COLUMNS}])
                return
            header = os.pread(self._file, HEADER_BYTES, 0).decode("utf-8", "replace").partition("\n")[0].split(",")
            if header[: len(PLACE_COLUMNS)] == PLACE_COLUMNS:
                self._columns = header
            if os.pread(self._file, 1, size - 1) != b"\n":
                self._append(b"\n")
        except OSError as error:
            self._give_up(error)

    def write(self, rows: list[dict[str, object]]) -> None:
        """Append one sample: a dict by column name for each of its rows."""
        if self._file is None:
            return
        try:
            self._append(_csv_lines(rows, self._columns))
        except OSError as error:
            self._give_up(error)

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        size = os.fstat(self._file).st_size
        rest = data
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            # Remove a partial sample; a special file cannot be truncated.
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def _give_up(self, error: OSError) -> None:
        self._notice(f"{self._path}: {error.strerror}; sampling continues in memory")
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _csv_lines(rows: list[dict[str, object]], columns: list[str]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
