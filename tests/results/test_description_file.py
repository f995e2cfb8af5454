"""The file of --describe: every text is read as written, and what is not text is refused with its line."""

from __future__ import annotations

import pytest

from common.errors import UserError
from results.packaging.system_description import read_description

# Texts that YAML 1.1 reads as numbers, dates, booleans or null, and others that may be written without quotes.
AWKWARD = [
    "2.10", "24.10", "010", "0o17", "0x10", "0b11", "1_000", "1e3", "1e-3", "1.5E+3", ".5", "5.", "-0", "+1", "12:30",
    "190:20:30", "12:30:45.5", "no", "No", "off", "y", "yes", "on", "True", "false", ".inf", "-.INF", ".nan", "nan", "NA",
    "N/A", "None", "nil", "2026-11-27", "2001-12-14t21:59:43.10-05:00", "=", "<<", "~/x", "1,5", "0.10.0", "3 %", "C:\\new",
    "it's", "a#b", "-x", "?x", ":x", "x [y] {z}", "e\u0301 \u00a0 日本 \U0001f600",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cooling: '010'", "010"),
        ('cooling: "no"', "no"),
        ("cooling: 'null'", "null"),
        ('cooling: "~"', "~"),
        ('cooling: ""', ""),
        ("'cooling': 2.10  # measured", "2.10"),
        ("cooling: |\n  2.10\n  no", "2.10\nno"),
        ("cooling: >-\n  2.10\n  no", "2.10 no"),
        ("cooling:\n  2.10", "2.10"),
        ("\ufeffcooling: no\r\n", "no"),
        ("--- # about\ncooling: 1_000\n...", "1_000"),
        ('{"cooling": 2.10}', "2.10"),
        ('{"cooling": 1e3, "hw_notes": "x"}', "1e3"),
        ('{"cooling":false}', "false"),
        ('{"cooling": "\\u00e9 \\ud83d\\ude00"}', "é \U0001f600"),
    ],
)
def test_a_text_in_any_yaml_form_is_read(tmp_path, text, expected):
    (tmp_path / "d.yaml").write_bytes(text.encode())
    assert read_description(tmp_path / "d.yaml")["cooling"] == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("hw_notes: x\ncooling:", 2, "cooling has no text"),
        (("cooling: ~", 1, "use quotes")),
        (("cooling: null", 1, "use quotes")),
        ("cooling: #1 fan", 1, "starts with #"),
        ('{"hw_notes": "x",\n"cooling": null}', 2, "no text"),
        ("cooling:\n- air\n- water", 1, "`cooling: one, two`"),
        ("cooling: {a: b}", 1, "must be text"),
        ("cooling: a\nhw_notes: b\ncooling: c", 3, "'cooling' occurs twice"),
        ("cooling: a\n'cooling': c", 2, "occurs twice"),
        ("other_software_stack:\n  a: 1\n  a: 2", 3, "occurs twice"),
        ("other_software_stack:\n  a: 1\n  b:", 3, "b has no text"),
        ("other_software_stack:\n  a: [1]", 2, "a must be text"),
        ("cooling: !!int 010", 1, "tags"),
        ("cooling: !important x", 1, "tags"),
        ("cooling: ! x", 1, "tags"),
        ("cooling: &co x", 1, "anchors"),
        ("cooling: &a x\nhw_notes: *a", 1, "anchors"),
        ("hw_notes: *a", 1, "aliases"),
        ("<<: {cooling: x}", 1, "'<<' is not a field"),
        ("cooling: a: b", 1, "in quotes"),
        ("? [cooling]\n: x", 1, "key must be text"),
        ('cooling: "\\ud83d"', 1, "unpaired surrogate"),
        ("cooling: \x00", None, "not a YAML file"),
        ("", None, "expected"),
        (b"cooling: k\xfchl", None, "UTF-8"),
        ("cooling: x".encode("utf-16"), None, "UTF-8"),
    ],
)
def test_a_value_that_is_not_text_is_refused_with_its_line(tmp_path, text, line, message):
    path = tmp_path / "d.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_description(path)
    assert caught.value.where == (f"{path}:{line}" if line else str(path))
    assert message in str(caught.value)
