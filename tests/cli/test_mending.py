"""Messages name the flag that mends: settings of an artifact, conversions, threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from forerun.cli.main import main
from tests.support.tiny_checkpoints import write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("tiny"), "llama"))


@pytest.fixture(scope="module")
def artifact(model: str) -> str:
    folder = str(Path(model) / "artifact")
    assert main(["compile", model, "--output", folder, "--seq-len", "64"]) == 0
    return folder


@pytest.mark.parametrize("command", ["generate", "serve"])
@pytest.mark.parametrize(
    ("typed", "mend"),
    [
        (("--quantization-dtype", "int8"), "--quantization-dtype int8"),
        (("--quantization-dtype", "int4"), "--quantization-dtype int4"),
        (("--quantization-dtype", "float32"), "--quantization-dtype float32"),
        (("--kv-cache-dtype", "int8"), "--kv-cache-dtype int8"),
    ],
)
def test_a_setting_that_needs_a_recompile_is_told_in_its_own_words(
    artifact: str, command: str, typed: tuple[str, str], mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag, value = typed
    words = ["generate", artifact, "x", flag, value]
    if command == "serve":
        if flag == "--quantization-dtype":
            flag = "--dtype" if value == "float32" else "--quantization"
        words = ["serve", "--model", artifact, "--port", "0", flag, value]
    assert main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{flag} {value} (stored " in error and f"compile again with {mend}, or leave" in error
    assert "quantized" not in error and "kv_cache_quant" not in error


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ("int8", ("FLOAT32 -> int8_f16: ", "(as asked)", "smaller with --quantization-dtype int4")),
        ("int4", ("FLOAT32 -> int4_f16_min: ", "(as asked)")),
        ("bfloat16", ("FLOAT32 -> bfloat16: ", "(as asked)")),
        ("auto", ("float32: ", "the checkpoint's own numbers")),
    ],
)
def test_a_conversion_says_what_and_why(
    model: str, tmp_path: Path, asked: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", model, "-o", str(tmp_path / "a"), "--seq-len", "64", "--quantization-dtype", asked]) == 0
    told = capsys.readouterr().out
    assert all(part in told for part in parts)
    assert ("smaller with" in told) == (asked == "int8")


def test_more_threads_than_processors_are_told(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", artifact, "x", "--no-chat", "--max-new-tokens", "1", "--threads"]
    assert main([*words, "99"]) == 0
    assert "--threads 99: only " in capsys.readouterr().err
    assert main([*words, "1"]) == 0
    assert "processors" not in capsys.readouterr().err
