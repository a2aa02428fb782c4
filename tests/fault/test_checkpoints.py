"""Broken checkpoints on the command line: one clear line, a failing status, nothing left behind."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.gguf_writing import gguf_config, write_gguf
from tests.fault.conftest import Shell
from tests.support.tiny_checkpoints import tiny_config, tiny_tensors, write_safetensors, write_tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model", "llama")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m.gguf", gguf_config("llama"), kind="Q4_1")
    return tmp_path / "m.gguf"


def cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def header_of(path: Path) -> tuple[dict[str, dict[str, object]], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(path: Path, header: dict[str, dict[str, object]], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("part", [0.0, 0.00001, 0.01, 0.5, 0.999])
def test_truncated_safetensors(shell: Shell, model: Path, part: float) -> None:
    cut(model / "model.safetensors", part)
    line = shell.compile_refuses(model)
    assert "model.safetensors" in line and any(word in line for word in ("truncated", "too few", "claims"))


def test_a_missing_shard(shell: Shell, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", "llama", shards=3)
    (model / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in shell.compile_refuses(model)


def test_a_safetensors_header_that_contradicts_itself(shell: Shell, model: Path) -> None:
    path = model / "model.safetensors"
    header, data = header_of(path)
    name = "model.norm.weight"
    for change, word in [({"shape": [3, 5]}, "shape"), ({"dtype": "F99"}, "F99"), ({"data_offsets": [0, 8]}, name)]:
        with_header(path, {**header, name: {**header[name], **change}}, data)
        line = shell.compile_refuses(model)
        assert name in line and word in line


@pytest.mark.parametrize("dtype", ["I32", "F64", "F8_E4M3"])
def test_tensors_of_a_wrong_type(shell: Shell, tmp_path: Path, dtype: str) -> None:
    model = write_tiny(tmp_path / "model", "llama")
    path = model / "model.safetensors"
    header, data = header_of(path)
    last = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])  # type: ignore[arg-type,return-value]
    begin, end = header[last]["data_offsets"]  # type: ignore[misc]
    size = (end - begin) // 4 * {"I32": 4, "F64": 8, "F8_E4M3": 1}[dtype]
    header[last] |= {"dtype": dtype, "data_offsets": [begin, begin + size]}
    with_header(path, header, data[:begin] + bytes(size))
    line = shell.compile_refuses(model)
    assert dtype in line and "F32" in line


def test_a_tensor_that_is_missing_or_of_another_shape(shell: Shell, model: Path) -> None:
    config = tiny_config("llama")
    tensors = tiny_tensors(config)
    name = "model.layers.1.mlp.up_proj.weight"
    write_safetensors(model / "model.safetensors", {**tensors, name: tensors[name][:-1]})
    assert name in shell.compile_refuses(model)
    del tensors[name]
    write_safetensors(model / "model.safetensors", tensors)
    assert name in shell.compile_refuses(model)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.layers.0.self_attn.v_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_weights_that_are_no_numbers(shell: Shell, model: Path, name: str, bad: float) -> None:
    tensors = tiny_tensors(tiny_config("llama"))
    tensors[name].reshape(-1)[7] = bad
    write_safetensors(model / "model.safetensors", tensors)
    for extra in ((), ("--quantization-dtype", "int8"), ("--quantization-dtype", "int4")):
        line = shell.refuses("compile", model, "--output", shell.folder / "out", *extra)
        assert f"'{name}' holds 1 values that are NaN or infinite" in line
    assert name in shell.demo_refuses(model)


def test_a_missing_tokenizer(shell: Shell, model: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert "tokenizer.json" in shell.compile_refuses(model)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}', "\x00\x01"])
def test_a_broken_tokenizer(shell: Shell, model: Path, text: str) -> None:
    (model / "tokenizer.json").write_text(text)
    assert "tokenizer.json" in shell.compile_refuses(model)
    assert "tokenizer.json" in shell.refuses("generate", model, "--prompt", "x", "--seq-len", "64")


def test_no_config_and_other_architectures(shell: Shell, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({**config, "architectures": ["MambaForCausalLM"], "model_type": "mamba"})
    )
    line = shell.compile_refuses(model)
    assert "mamba" in line.lower() and "llama" in line.lower()
    (model / "config.json").write_text("{")
    assert "config.json" in shell.compile_refuses(model)
    (model / "config.json").unlink()
    assert "config.json" in shell.compile_refuses(model)


def test_pickles_are_never_read(shell: Shell, model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "pickle" in shell.compile_refuses(model).lower()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.05, 0.5, 0.99])
def test_truncated_gguf(shell: Shell, gguf: Path, part: float) -> None:
    cut(gguf, part)
    assert "m.gguf" in shell.compile_refuses(gguf)


@pytest.mark.parametrize(("at", "value"), [(0, 0x47475546), (4, 99), (8, 2**62), (16, 2**62), (8, 2**31), (24, 2**60)])
def test_a_gguf_with_a_lying_header(shell: Shell, gguf: Path, at: int, value: int) -> None:
    """Magic, version, number of tensors, number of metadata entries, length of the first key."""
    content = bytearray(gguf.read_bytes())
    struct.pack_into("<I" if at < 8 else "<Q", content, at, value)
    gguf.write_bytes(content)
    assert "m.gguf" in shell.compile_refuses(gguf)


def test_a_gguf_whose_tensor_lies_beyond_its_end(shell: Shell, gguf: Path) -> None:
    content = bytearray(gguf.read_bytes())
    at = content.index(b"output_norm.weight") + len(b"output_norm.weight")
    struct.pack_into("<Q", content, at + 4, 2**40)  # after the number of dimensions
    gguf.write_bytes(content)
    assert "output_norm.weight" in shell.compile_refuses(gguf)


def test_nothing_there(shell: Shell, tmp_path: Path) -> None:
    assert "does not exist" in shell.compile_refuses(tmp_path / "nowhere")
    assert "did you mean 'default'" in shell.compile_refuses("defualt")
    (tmp_path / "empty").mkdir()
    assert "config.json" in shell.compile_refuses(tmp_path / "empty")


NUMBERS = ["1e999", "-1e999", "9" * 400, "NaN", "Infinity"]


@pytest.mark.parametrize("kind", ["config", "generation_config", "tokenizer_config", "added_tokens"])
def test_numbers_that_no_type_holds(shell: Shell, model: Path, kind: str) -> None:
    file = model / f"{kind}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for number in NUMBERS:
        file.write_text(json.dumps({**known, "eos_token_id": "NUMBER"}).replace('"NUMBER"', number))
        line = shell.compile_refuses(model)
        assert f"{kind}.json: not valid JSON (" in line and "is no finite number" in line
