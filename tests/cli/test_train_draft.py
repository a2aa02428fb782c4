"""``forerun train-draft``: from a target to a draft that every command takes."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forerun.checkpoint import open_checkpoint
from forerun.cli.main import main
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.generator import Generator
from forerun.engine.params import SamplingParams
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.table import load_table
from forerun.errors import ForerunError
from forerun.opening import ModelRequest, open_model
from forerun.runtime.loader import RunSettings
from forerun.training import torch_module
from tests.support.tiny_checkpoints import write_tiny

PROMPTS = [[5, 9, 40, 12], [101, 7, 7, 30, 2]]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny(tmp_path / "target", "llama", seed=1)


def train(target: Path, out: Path, *flags: str) -> int:
    sizes = ["--tokens", "4000", "--answer-tokens", "24", "--layers", "1", "--passes", "2", "--threads", "1"]
    return main(["train-draft", str(target), "--out", str(out), *sizes, *flags])


def answers(target: Path, drafts: dict[str, Any] | None, params: SamplingParams) -> list[list[int]]:
    config = None if drafts is None else SpeculativeConfig.from_dict(drafts)
    settings = EngineSettings(max_num_seqs=2, max_model_len=128, speculative_config=config)
    model = open_model(ModelRequest(str(target), engine=settings, run=RunSettings(1)))
    with Generator(model.executor, model.tokenizer, settings=model.engine, draft=model.draft) as llm:
        return [output.outputs[0].token_ids for output in llm.generate(PROMPTS, params)]


def test_from_a_target_to_a_draft_that_changes_no_token(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "draft"
    assert train(target, out, "--vocab-size", "150", "--prompts", "1", "--num-speculative-tokens", "3") == 0
    assert "temperature 0.7: acceptance by position" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert 0 < report["agreement"]["drawn"] < report["agreement"]["known"] < 1
    for temperature in ("0", "0.7"):
        found = report["temperatures"][temperature]
        assert [found["measured"][source]["same_tokens"] for source in ("draft", "lookup", "both")] == [True] * 3
        assert 1 <= len(found["acceptance_by_position"]) <= 3
    for temperature in (0.0, 0.7):
        params = SamplingParams(temperature=temperature, seed=4, max_tokens=20, ignore_eos=True)
        plain = answers(target, None, params)
        for fused in (False, True):
            drafts = {"model": str(out), "num_speculative_tokens": 3, "fused": fused}
            assert answers(target, drafts, params) == plain


def test_a_table_needs_no_torch_and_changes_no_token(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.npz"
    assert train(target, tmp_path / "out", "--until", "collect", "--table", str(table)) == 0
    assert f"{table}: " in capsys.readouterr().out
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    assert answers(target, {"table": str(table)}, params) == answers(target, None, params)
    found = load_table(table)
    assert len(found.best) > 50 and found.vocabulary
    again = tmp_path / "again.npz"
    assert train(target, tmp_path / "out", "--until", "collect", "--table", str(again)) == 0
    assert again.read_bytes() == table.read_bytes()
    capsys.readouterr()
    assert train(target, tmp_path / "out", "--until", "collect", "--table", str(tmp_path / "none" / "t.npz")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "t.npz" in error


def test_it_goes_on_and_refuses_another_recipe(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "draft"
    assert train(target, out, "--until", "collect") == 0
    assert not (out / "config.json").exists()
    assert train(target, out, "--until", "train", "--vocab-size", "100") == 0
    weights = (out / "model.safetensors").read_bytes()
    assert train(target, out, "--until", "train", "--vocab-size", "100") == 0
    assert (out / "model.safetensors").read_bytes() == weights
    capsys.readouterr()
    assert train(target, out, "--until", "train", "--vocab-size", "120") == 1
    assert "was begun with parameters" in capsys.readouterr().err


def test_it_begins_with_an_earlier_draft(tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    earlier, out = tmp_path / "earlier", tmp_path / "draft"
    assert train(target, earlier, "--until", "train", "--vocab-size", "100") == 0
    more = ["--until", "train", "--text", str(earlier / "text"), "--begin-with", str(earlier), "--vocab-size"]
    assert train(target, out, *more, "100", "--learning-rate", "1e-9") == 0
    before, after = (open_checkpoint(str(folder)).tensors for folder in (earlier, out))
    assert all(np.allclose(after[name].load(), tensor.load(), atol=1e-6) for name, tensor in before.items())
    capsys.readouterr()
    assert train(target, tmp_path / "other", *more, "110") == 1
    assert "is a draft of another shape" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tokens", "0"], "--tokens must be within"),
        (["--passes", "-1"], "--passes must be above 0"),
        (["--seed", "-3"], "--seed must be within"),
        (["--answer-tokens", "1"], "--answer-tokens must be within"),
        (["--layers", "0"], "--layers must be within"),
        (["--hidden-size", "100000"], "--hidden-size 100000 must be within"),
        (["--vocab-size", "100000"], "--vocab-size 100000 must be within"),
        (["--minutes", "-1"], "--minutes must be above 0"),
        (["--learning-rate", "7"], "--learning-rate must be above 0"),
        (["--threads", "-1"], "--threads -1 must not be negative"),
    ],
)
def test_wrong_flags_are_one_line(
    tmp_path: Path, target: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert train(target, tmp_path / "draft", *flags) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1]
    assert not (tmp_path / "draft" / "text").exists()


def test_targets_and_folders_that_cannot_be(tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "nothing", tmp_path / "draft", "--until", "collect") == 1
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "file").write_text("no folder")
    assert train(target, tmp_path / "file", "--until", "collect") == 1
    assert f"{tmp_path / 'file'}: " in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(torch_module, "import_module", missing)
    with pytest.raises(ForerunError, match=r"pip install forerun\[train\]"):
        torch_module.need_torch()
    monkeypatch.undo()
    assert torch_module.import_module is importlib.import_module


def test_what_is_killed_goes_on(tmp_path: Path, target: Path) -> None:
    flags = ["train-draft", str(target), "--answer-tokens", "24", "--threads", "1", "--until", "collect", "--out"]
    first = tmp_path / "killed" / "text" / "shard-00000.npz"
    command = [sys.executable, "-m", "forerun.cli.main", *flags, str(tmp_path / "killed"), "--tokens", "1000000000"]
    with subprocess.Popen(command) as running:
        while running.poll() is None and not first.exists():
            time.sleep(0.01)
        running.kill()
    assert running.returncode == -signal.SIGKILL
    texts = []
    for name in ("killed", "whole"):
        assert main([*flags, str(tmp_path / name), "--tokens", "30000"]) == 0
        texts.append({path.name: path.read_bytes() for path in (tmp_path / name / "text").iterdir()})
    killed, whole = texts
    assert len(whole) > 2
    assert {name: killed.get(name) for name in whole} == whole
