"""Errors in one line."""

from __future__ import annotations

import pytest

from common.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("out of memory\nTried to allocate 2 GiB"), "out of memory"),
        (MemoryError(), "MemoryError"),
        (ValueError(""), "ValueError"),
    ],
)
def test_an_error_has_a_line_even_without_a_text(error, line):
    assert first_line(error) == line
