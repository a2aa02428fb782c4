"""forerun cache and forerun inspect: what commands compiled for themselves can be seen and cleared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forerun.cli.main import main
from forerun.opening.cache import cached
from tests.support.tiny_checkpoints import write_tiny


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint, and a cache of its own."""
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    return str(write_tiny(tmp_path / "model", "llama"))


def compile_once(model: str, *words: str) -> None:
    assert main(["generate", model, "a", "--no-chat", "--max-new-tokens", "1", "--threads", "1", *words]) == 0


def test_an_empty_cache_is_no_error(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("list",), ("clear",)):
        assert main(["cache", *words]) == 0
    assert "0 artifacts" in capsys.readouterr().out


def test_artifacts_are_listed_with_their_model_and_cleared(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    compile_once(model)
    compile_once(model, "--quantization-dtype", "int8")
    capsys.readouterr()
    assert main(["cache", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == [model, model] and all(row["bytes"] > 1000 for row in rows)
    assert main(["cache", "clear", rows[0]["name"]]) == 0
    assert [entry.name for entry in cached()] == [rows[1]["name"]]
    assert main(["cache", "clear"]) == 0
    assert cached() == []


def test_what_killed_compiles_left_goes(model: str) -> None:
    compile_once(model)
    (entry,) = cached()
    for words in (("cache", "clear"), ("generate", model, "a", "--no-chat", "--max-new-tokens", "1")):
        (left := entry.path.parent / ".123.partial-abc" / "weights").mkdir(parents=True)
        assert main(words) == 0
        assert not left.parent.exists()


def test_an_unknown_name_clears_nothing(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    compile_once(model)
    (entry,) = cached()
    capsys.readouterr()
    assert main(["cache", "clear", entry.name[:-1]]) == 1
    assert f"did you mean '{entry.name}'?" in capsys.readouterr().err and cached() == [entry]


def test_what_another_version_left_is_listed_and_cleared(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    compile_once(model)
    (entry,) = cached()
    manifest = entry.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": ', '"format_version": 9'))
    capsys.readouterr()
    assert main(["cache"]) == 0
    assert "cannot be read by this version" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0 and cached() == []


def test_inspect_shows_a_checkpoint_and_then_its_artifact(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", model]) == 0
    before = capsys.readouterr().out
    assert "llama" in before and "float32" in before and "Not compiled yet" in before
    compile_once(model)
    capsys.readouterr()
    assert main(["inspect", model]) == 0
    after = capsys.readouterr().out
    assert str(cached()[0].path) in after and "KV cache" in after and "Not compiled" not in after
    assert main(["inspect", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cached"] == [str(cached()[0].path)]
