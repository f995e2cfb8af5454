"""Workflow commands of GitHub Actions: annotations of a pull request, and text that a runner does not obey."""

from __future__ import annotations

import secrets


def annotation(level: str, message: str, **properties: object) -> str:
    """A line `::LEVEL name=value,...::MESSAGE`, without its line break; `level` is error, warning or notice."""
    given = ",".join(f"{name}={_escaped_property(str(value))}" for name, value in properties.items())
    return f"::{level} {given}::{_escaped(message)}"


def without_commands(text: str) -> str:
    """Text that GitHub Actions prints without obeying it.

    A runner obeys `::` at the start of any line, even indented. A log that is quoted could contain it.
    """
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{text}::{token}::\n"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
