"""The two layouts of the modules file, and what is said about others."""

from __future__ import annotations

from pathlib import Path

import pytest

from forerun.config import read_modules_to_not_convert
from forerun.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    [
        '{"modules_to_not_convert": ["lm_head", "layers.0.mlp"]}',
        '{"model": {"modules_to_not_convert": ["lm_head", "layers.0.mlp"]}, "draft_model": {}}',
    ],
)
def test_layouts(tmp_path: Path, text: str) -> None:
    file = tmp_path / "modules.json"
    file.write_text(text)
    assert read_modules_to_not_convert(file) == ("lm_head", "layers.0.mlp")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"modules_to_not_convert": "lm_head"}', '{"model": []}'])
def test_other_content_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "modules.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="--modules-to-not-convert-file"):
        read_modules_to_not_convert(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_modules_to_not_convert(tmp_path / "none.json")
