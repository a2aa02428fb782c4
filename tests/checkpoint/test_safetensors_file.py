"""Safetensors headers that lie: one clear error each; what is accepted, the safetensors library reads alike."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forerun.checkpoint.safetensors_file import open_safetensors
from forerun.errors import CheckpointError
from tests.support.tiny_checkpoints import write_safetensors

FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def file_of(header: Any, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "empty": (b"", "too few"),
    "seven bytes": (b"1234567", "too few"),
    "huge header": (struct.pack("<Q", 1 << 60) + b"{}", "its header claims"),
    "header past the end": (struct.pack("<Q", 100) + b"{}", "its header claims"),
    "not json": (file_of(b"{nope"), "not valid JSON"),
    "not utf-8": (file_of(b"\xff\xfe{}"), "not valid JSON"),
    "deep json": (file_of(b'{"a":' * 200_000), "not valid JSON"),
    "a list": (file_of([1]), "a JSON object was expected"),
    "name twice": (file_of(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1}'), "a key occurs twice"),
    "entry is a number": (file_of({"a": 1}), "dtype, shape and data_offsets are needed"),
    "unknown type": (file_of({"a": entry(dtype="F33")}, 8), "unknown dtype 'F33'"),
    "type is a list": (file_of({"a": entry(dtype=[])}, 8), "unknown dtype"),
    "negative size": (file_of({"a": entry(shape=[-2])}, 8), "list of sizes"),
    "fractional size": (file_of({"a": entry(shape=[2.0])}, 8), "list of sizes"),
    "huge size": (file_of({"a": entry(shape=[1 << 62, 1 << 62])}, 8), "list of sizes"),
    "true as a size": (file_of({"a": entry(shape=[True, 2])}, 8), "list of sizes"),
    "one offset": (file_of({"a": entry(offsets=[0])}, 8), "two positions"),
    "negative offset": (file_of({"a": entry(offsets=[-8, 0])}, 8), "two positions"),
    "shape and span differ": (file_of({"a": entry(shape=[3])}, 8), r"needs 12 bytes, data_offsets span 8"),
    "reversed span": (file_of({"a": entry(offsets=[8, 0])}, 8), "needs 8 bytes"),
    "truncated data": (file_of({"a": entry()}, 7), "truncated"),
    "trailing data": (file_of({"a": entry()}, 9), "unclaimed bytes"),
    "hole": (file_of({"a": entry(), "b": entry(offsets=[12, 20])}, 20), "leaves unclaimed bytes"),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=[4, 12])}, 12), "overlaps"),
}


@pytest.mark.parametrize("name", list(LIES))
def test_each_lie_gives_one_clear_line(tmp_path: Path, name: str) -> None:
    content, message = LIES[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_safetensors(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: cannot be read"):
        open_safetensors(tmp_path / "gone.safetensors")


def test_unaligned_data_is_read_and_aligned(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4")
    header = json.dumps({"a": entry(shape=[2, 3], offsets=[0, 24])}).encode()
    header += b" " * (1 - len(header) % 4)
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    loaded = open_safetensors(tmp_path / "m.safetensors").tensor("a").load()
    assert loaded.flags.aligned
    np.testing.assert_array_equal(loaded, values.reshape(2, 3))


@FUZZ
@given(data=st.data())
def test_what_is_accepted_the_safetensors_library_accepts_too(tmp_path: Path, data: st.DataObject) -> None:
    from safetensors.numpy import load

    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": np.ones((2, 3), np.float32), "b": np.zeros(5, np.float32)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) - 8, len(content)))])
    try:
        file = open_safetensors(path)
    except CheckpointError:
        return
    theirs = load(path.read_bytes())
    assert theirs.keys() == file.entries.keys()
    for name, values in theirs.items():
        assert file.entries[name].shape == values.shape
        if file.entries[name].dtype == "F32":
            assert file.tensor(name).load().tobytes() == values.tobytes()
