"""Where the files of a checkpoint contradict each other, the commands say what was made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from forerun.cli.main import main
from tests.support.tiny_checkpoints import tiny_config, tiny_tensors, write_safetensors, write_tiny

NOTE = "tie_word_embeddings is true, but the stored lm_head.weight differs from the embeddings: it is used"


def test_a_head_of_its_own_is_named_when_it_is_compiled_inspected_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, artifact = write_tiny(tmp_path / "m", "llama", tie_word_embeddings=True), str(tmp_path / "artifact")
    tensors = tiny_tensors(tiny_config("llama", tie_word_embeddings=True))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    write_safetensors(model / "model.safetensors", tensors)
    assert main(["compile", str(model), "--output", artifact, "--seq-len", "64", "--batch-size", "1"]) == 0
    assert NOTE in capsys.readouterr().out
    assert main(["inspect", artifact]) == 0
    assert f"Note: {NOTE}" in capsys.readouterr().out
    assert main(["generate", artifact, "--prompt", "a", "--max-new-tokens", "1"]) == 0
    printed = capsys.readouterr()
    assert f"forerun: {NOTE}" in printed.err and NOTE not in printed.out
