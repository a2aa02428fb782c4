"""The reader of JSON from files: whatever stands in them, a value that is safe to use or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forerun.errors import ArtifactError, CheckpointError
from forerun.json_text import ARTIFACT_JSON, CHECKPOINT_JSON

NOT_JSON = [
    b"", b"{", b"[1,]", b"\xff\xfe{}", b"[" * 100_000, b'{"a": 1, "a": 2}', b'"\\ud800"', b'{"\\udfff": 1}',
    b'["\\ud83d \\ude00"]', b"\x00", b"nul",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_JSON)
def test_what_is_no_json_is_one_line(text: bytes) -> None:
    for reader, error in ((ARTIFACT_JSON, ArtifactError), (CHECKPOINT_JSON, CheckpointError)):
        with pytest.raises(error, match=r"^x\.json: not valid JSON \(.*\); .*again$") as caught:
            reader.parse(text, "x.json")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "number", ["1" + "0" * 400, "9" * 5000, "-" + "9" * 5000, "1e999", "Infinity", "-Infinity", "NaN"]
)
def test_numbers_that_no_type_holds_are_refused(number: str) -> None:
    with pytest.raises(CheckpointError, match=r"is no finite number\); fetch it again$") as caught:
        CHECKPOINT_JSON.parse(f'{{"a": [{number}]}}', "x")
    assert len(str(caught.value)) < 100
    assert CHECKPOINT_JSON.parse('["1e999", 1.5e300, 1e-999]', "x") == ["1e999", 1.5e300, 0.0]


@pytest.mark.parametrize("number", [0, -1, 2**31, 2**40, 2**63 - 1, -(2**63) + 1, 10**19, 10**30])
def test_whole_numbers_of_64_bits_stay_whole(number: int) -> None:
    value = CHECKPOINT_JSON.parse(str(number), "x")
    assert value == (number if abs(number) < 2**63 else float(number))
    assert isinstance(value, int) == (abs(number) < 2**63)


def test_text_stays_as_it_is() -> None:
    assert CHECKPOINT_JSON.parse(b'["\\ud83d\\ude00", "\\\\ud800", "\\u00e9"]', "x") == ["\U0001f600", "\\ud800", "é"]


@pytest.mark.parametrize("value", [None, [], "text", {}, {"n": True}, {"n": "1"}, {"n": 1.5}, {"n": None}])
def test_objects_are_what_is_required(value: Any) -> None:
    ARTIFACT_JSON.require({"n": 1, "more": 2}, {"n": int}, "x")
    with pytest.raises(ArtifactError, match="compile the artifact again"):
        ARTIFACT_JSON.require(value, {"n": int}, "x")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            CHECKPOINT_JSON.read_object(path)
    (tmp_path / "list").write_text("[]")
    with pytest.raises(CheckpointError, match="a JSON object was expected, not list"):
        CHECKPOINT_JSON.read_object(tmp_path / "list")
