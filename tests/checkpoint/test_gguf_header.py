"""GGUF headers that lie: one clear error, whatever the bytes, and no memory spent on claims."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forerun.checkpoint import open_checkpoint
from forerun.checkpoint.gguf_header import open_gguf_header
from forerun.errors import CheckpointError
from tests.checkpoint.gguf_writing import gguf_config, write_gguf


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def header(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def tensor(name: bytes = b"t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in shape)
    return string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


HUGE = 1 << 60
LIES = {
    "empty file": (b"", "not a GGUF file"),
    "other format": (b"PK\x03\x04" + bytes(64), "not a GGUF file"),
    "old version": (header(0, 0, version=1), "version 1 is not supported"),
    "big endian": (header(0, 0, version=3 << 24), "big-endian"),
    "huge tensor count": (header(HUGE, 0), "claims 1152921504606846976 tensors"),
    "huge key count": (header(0, HUGE), "1152921504606846976 keys"),
    "more keys than bytes": (header(0, 9), "ends within"),
    "huge key": (header(0, 1, struct.pack("<Q", HUGE)), "a name in the header claims"),
    "huge string": (header(0, 1, string(b"k") + struct.pack("<IQ", 8, HUGE)), "the value of 'k' claims"),
    "string past the end": (header(0, 1, string(b"k") + struct.pack("<IQ", 8, 1000)), "ends within the value of 'k'"),
    "huge array": (header(0, 1, string(b"k") + struct.pack("<IIQ", 9, 4, HUGE)), "array 'k' claims"),
    "array past the end": (header(0, 1, string(b"k") + struct.pack("<IIQ", 9, 4, 1000)), "ends within array 'k'"),
    "strings past the end": (
        header(0, 1, string(b"k") + struct.pack("<IIQ", 9, 8, 1000)),
        "more than the file can hold",
    ),
    "nested array": (header(0, 1, string(b"k") + struct.pack("<IIQ", 9, 9, 1)), "unsupported type 9"),
    "unknown value type": (header(0, 1, string(b"k") + struct.pack("<I", 77)), "unknown value type 77"),
    "key twice": (header(0, 2, (string(b"k") + struct.pack("<IB", 0, 1)) * 2), "occurs twice"),
    "alignment": (header(0, 1, string(b"general.alignment") + struct.pack("<II", 4, 33)), "power of two"),
    "no dimensions": (header(1, 0, tensor(shape=())), "0 dimensions"),
    "many dimensions": (header(1, 0, tensor(shape=(1,) * 9)), "9 dimensions"),
    "zero dimension": (header(1, 0, tensor(shape=(0,))), "impossible"),
    "dimensions overflow": (header(1, 0, tensor(shape=(1 << 32, 1 << 32))), "truncated"),
    "partial block": (header(1, 0, tensor(shape=(33,), kind=8)), "impossible for blocks of 32"),
    "unsupported type": (header(1, 0, tensor(kind=16)), "unsupported type IQ2_XXS; supported: F32"),
    "unknown type": (header(1, 0, tensor(kind=99)), "unsupported type number 99; supported: F32"),
    "offset past the end": (header(1, 0, tensor(offset=1 << 62)), "truncated"),
    "odd offset": (header(1, 0, tensor(offset=1) + bytes(500)), "no multiple of 32"),
    "missing data": (header(1, 0, tensor()), "truncated"),
    "overlap": (header(2, 0, tensor(b"a") + tensor(b"b") + bytes(500)), "overlaps"),
    "tensor twice": (header(2, 0, tensor(b"a") + tensor(b"a", offset=128) + bytes(500)), "occurs twice"),
}


@pytest.mark.parametrize("name", list(LIES))
def test_each_lie_gives_one_clear_line_and_takes_no_memory(tmp_path: Path, name: str) -> None:
    content, message = LIES[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert peak < 8 << 20


def test_the_header_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    from gguf import GGUFReader

    write_gguf(tmp_path / "m.gguf", gguf_config("qwen2"), kind="Q5_1")
    file, reader = open_gguf_header(tmp_path / "m.gguf"), GGUFReader(tmp_path / "m.gguf")
    for key, value in file.metadata.items():
        want = reader.fields[key].contents()
        assert (
            value if isinstance(value, str | list) else value.tolist() if hasattr(value, "tolist") else value
        ) == want
    assert len(file.metadata) == len(reader.fields) - 3
    assert len(file.tensors) == len(reader.tensors)
    for tensor in reader.tensors:
        info = file.tensors[tensor.name]
        assert info.kind == tensor.tensor_type.name and info.shape == tuple(tensor.shape.tolist())[::-1]
        assert (info.start, info.end - info.start) == (tensor.data_offset, tensor.n_bytes)


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    write_gguf(path, gguf_config("llama", num_hidden_layers=1), kind="Q4_0")
    return path.read_bytes()


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
def test_damaged_files_are_read_or_refused_but_never_crash(
    good_file: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(good_file)
    end = len(content) if data.draw(st.booleans()) else 3000
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end - 9))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        content[at : at + len(patch)] = patch
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(str(path))
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert all(tensor.load().shape == tensor.shape for tensor in checkpoint.tensors.values())


def test_huge_sizes_in_the_metadata_take_no_memory(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_config("llama"))
    content = (tmp_path / "m.gguf").read_bytes()
    for key in (b"head_count", b"key_length", b"block_count", b"embedding_length", b"feed_forward_length"):
        at = content.index(key + struct.pack("<I", 4)) + len(key) + 4
        (tmp_path / "lie.gguf").write_bytes(content[:at] + struct.pack("<I", 2**31 - 2) + content[at + 4 :])
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            open_checkpoint(str(tmp_path / "lie.gguf"))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


@FUZZ
@given(share=st.floats(0, 0.999))
def test_truncated_files_are_refused(good_file: bytes, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(good_file[: int(len(good_file) * share)])
    with pytest.raises(CheckpointError):
        open_checkpoint(str(path))
