"""forerun generate, compile and their flags, through the front door on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forerun.cli.main import main
from forerun.compiler.artifact import open_artifact
from tests.support.artifacts import tiny_artifact
from tests.support.tiny_checkpoints import write_tiny


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_artifact(tmp_path_factory.mktemp("tiny"), seq_len=64, pa_num_blocks=16).path)


def generate(artifact: str, *words: str) -> int:
    return main(["generate", artifact, "--no-chat", "--threads", "1", *words])


@pytest.mark.parametrize("length", [1, 40, 63])
def test_an_answer_is_as_long_as_fits_when_its_length_was_not_given(
    artifact: str, length: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(artifact, "--prompt", "x" * length) == 0
    stats = capsys.readouterr().err
    assert f"{length} prompt tokens" in stats and 1 <= int(stats.split(" ms, ")[1].split()[0]) <= 64 - length


def test_a_length_that_was_given_and_does_not_fit_is_refused(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(artifact, "--prompt", "x" * 40, "--max-new-tokens", "30") == 1
    assert "--max-new-tokens 30: 40 prompt tokens leave 24 of 64" in capsys.readouterr().err
    assert generate(artifact, "--prompt", "x" * 64) == 1
    assert (
        "maximum context length is 64 tokens. The prompt has 64 tokens, which leaves no room" in capsys.readouterr().err
    )


def test_modules_that_stay_unquantised(tmp_path: Path) -> None:
    model, names = write_tiny(tmp_path / "model", "llama"), tmp_path / "modules.json"
    names.write_text('{"modules_to_not_convert": ["lm_head", "model.layers.0.mlp"]}')
    words = ["--quantization-dtype", "int8", "--modules-to-not-convert-file", str(names), "--seq-len", "64"]
    assert main(["compile", str(model), "--output", str(tmp_path / "artifact"), *words]) == 0
    made = open_artifact(tmp_path / "artifact")
    assert made.neuron_config.modules_to_not_convert == ("lm_head", "model.layers.0.mlp")
    whole = json.dumps(made.manifest["quantization"])
    assert "int8" in whole and "float32" in whole


def test_a_modules_file_that_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny(tmp_path / "model", "llama")
    words = ["--output", str(tmp_path / "a"), "--modules-to-not-convert-file", str(tmp_path / "none.json")]
    assert main(["compile", str(model), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "none.json" in error and error.count("\n") == 1
    assert "--modules-to-not-convert-file" in error


def test_the_prompt_may_stand_alone_and_a_cut_is_said(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ("--no-chat", "--threads", "1", "--max-new-tokens", "3")
    assert main(["generate", artifact, "Hello", *rest]) == 0
    alone = capsys.readouterr()
    assert main(["generate", artifact, "--prompt", "Hello", *rest]) == 0
    assert capsys.readouterr().out == alone.out
    assert "cut at 3 tokens: --max-new-tokens" in alone.err


@pytest.mark.parametrize("words", [[], ["Hello", "--prompt", "Hello"]])
def test_one_prompt_and_not_two(artifact: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", artifact, *words]) == 1
    assert "give one prompt" in capsys.readouterr().err
