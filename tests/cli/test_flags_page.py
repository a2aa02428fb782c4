"""docs/flags.md is what the flag table says."""

from __future__ import annotations

from pathlib import Path

from forerun.cli.demo.docs import render_flags_page
from forerun.cli.demo.table import FLAGS
from forerun.config import NeuronConfig
from forerun.config.fields import specs_of

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"


def test_the_page_is_current() -> None:
    fix = "run: python -m forerun.cli.demo.docs > docs/flags.md"
    assert PAGE.read_text(encoding="utf-8") == render_flags_page(), fix


def test_every_flag_and_field_is_on_the_page() -> None:
    page = render_flags_page()
    for flag in FLAGS:
        assert flag.name.lstrip("-") in page
    for name in specs_of(NeuronConfig):
        assert f"`{name}" in page, name
