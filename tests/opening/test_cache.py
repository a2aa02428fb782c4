"""The artifact cache: compiled once per content and settings, mended when damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forerun.checkpoint import open_checkpoint
from forerun.compiler.artifact import MANIFEST, Artifact, weights_path
from forerun.errors import CheckpointError
from forerun.opening.cache import cache_folder, cached_artifact, is_artifact
from tests.checkpoint.gguf_writing import gguf_config, write_gguf
from tests.support.artifacts import everything_in, tiny_settings
from tests.support.tiny_checkpoints import write_tiny

TEMPLATE = "tokenizer.chat_template.other"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_tiny(tmp_path / "model", "llama"))


def stamp(artifact: Artifact) -> tuple[Path, int]:
    return artifact.path, (artifact.path / MANIFEST).stat().st_mtime_ns


def test_compiled_once(model: str, cache: Path) -> None:
    first = cached_artifact(open_checkpoint(model), tiny_settings())
    assert (
        stamp(cached_artifact(open_checkpoint(model), tiny_settings())) == stamp(first) and first.path.parent == cache
    )
    assert is_artifact(first.path) and len(list(cache.iterdir())) == 1


def test_other_settings_and_other_weights_have_other_places(model: str, tmp_path: Path, cache: Path) -> None:
    first = cached_artifact(open_checkpoint(model), tiny_settings()).path
    assert cached_artifact(open_checkpoint(model), tiny_settings(quantized=True)).path != first
    write_tiny(tmp_path / "model", "llama", seed=2)
    assert cached_artifact(open_checkpoint(model), tiny_settings()).path != first
    assert len(list(cache.iterdir())) == 3


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


EDITS = {
    "tokenizer_config.json": lambda values: values.update(chat_template="{{ messages[0].content }}"),
    "generation_config.json": lambda values: values.update(eos_token_id=[2, 5]),
    "tokenizer.json": lambda values: values["added_tokens"][0].update(special=False),
    "config.json": lambda values: values.update(eos_token_id=7),
}


@pytest.mark.parametrize("name", [*EDITS, "chat_template.jinja", "added_tokens.json", "special_tokens_map.json"])
def test_every_file_of_the_source_belongs_to_the_key(model: str, name: str) -> None:
    first = cached_artifact(open_checkpoint(model), tiny_settings()).path
    path = Path(model) / name
    if name in EDITS:
        edit(path, EDITS[name])
    else:
        path.write_text("{}")
    second = cached_artifact(open_checkpoint(model), tiny_settings())
    assert second.path != first
    assert dict(second.tokenizer_files()) == dict(open_checkpoint(model).tokenizer_files)


def test_a_gguf_file_with_another_template_has_another_place(tmp_path: Path) -> None:
    paths = []
    for number, template in enumerate(("{{ messages }}", "{{ bos_token }}")):
        source = tmp_path / f"{number}" / "m.gguf"
        source.parent.mkdir()
        write_gguf(source, gguf_config("llama"), edit=lambda writer, text=template: writer.add_string(TEMPLATE, text))
        artifact = cached_artifact(open_checkpoint(str(source)), tiny_settings())
        assert json.loads(artifact.tokenizer_files()["tokenizer_config.json"])["chat_template"] != ""
        paths.append(artifact.path)
    assert paths[0] != paths[1]


def test_times_do_not_belong_to_the_key(model: str) -> None:
    first = stamp(cached_artifact(open_checkpoint(model), tiny_settings()))
    for path in Path(model).iterdir():
        os.utime(path, (1, 1))
    assert stamp(cached_artifact(open_checkpoint(model), tiny_settings())) == first


def test_a_file_that_a_fresh_cache_refuses_is_refused_by_a_used_one(model: str) -> None:
    cached_artifact(open_checkpoint(model), tiny_settings())
    edit(Path(model) / "tokenizer.json", lambda values: values["decoder"].update(type="WordPiece"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        cached_artifact(open_checkpoint(model), tiny_settings())


def test_the_same_weights_elsewhere_are_found_again(model: str, tmp_path: Path) -> None:
    first = cached_artifact(open_checkpoint(model), tiny_settings())
    (tmp_path / "model").rename(tmp_path / "moved")
    assert stamp(cached_artifact(open_checkpoint(str(tmp_path / "moved")), tiny_settings())) == stamp(first)


def test_a_damaged_artifact_is_compiled_anew(model: str) -> None:
    first = cached_artifact(open_checkpoint(model), tiny_settings())
    weights = first.path / weights_path()
    weights.write_bytes(weights.read_bytes()[:-64])
    again = cached_artifact(open_checkpoint(model), tiny_settings())
    assert again.path == first.path and again.manifest == first.manifest and stamp(again)[1]


def test_recompile(model: str) -> None:
    first = stamp(cached_artifact(open_checkpoint(model), tiny_settings()))
    again = stamp(cached_artifact(open_checkpoint(model), tiny_settings(), recompile=True))
    assert again[0] == first[0] and again[1] > first[1]


def test_a_failed_compile_leaves_no_entry(tmp_path: Path, cache: Path) -> None:
    source = write_tiny(tmp_path / "bare", "llama", tokenizer=False)
    with pytest.raises(CheckpointError, match="tokenizer"):
        cached_artifact(open_checkpoint(str(source)), tiny_settings())
    assert not cache.exists() or not everything_in(cache)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FORERUN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "forerun" / "artifacts"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/forerun/artifacts")
