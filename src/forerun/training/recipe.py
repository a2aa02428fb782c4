"""Everything that decides which text is collected, and a check that a folder was made by the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forerun.errors import ConfigError
from forerun.json_text import CHECKPOINT_JSON
from forerun.training.files import make_folder, write_whole

HELD_OUT, OF = (31, 62), 64
"""These of so many documents are never trained on, one of them greedy: acceptance is measured there."""


@dataclass(frozen=True)
class CollectRecipe:
    """``seed``: of all random numbers. ``documents``: of a shard. ``answer_tokens``: longest answer. ``fingerprint``:
    of the target's weights. The same recipe gives the same documents, however often it was stopped."""

    fingerprint: str
    seed: int = 1
    documents: int = 64
    answer_tokens: int = 320

    def __post_init__(self) -> None:
        for name, low, high in (("seed", 0, 2**31 - 1), ("documents", 1, 4096), ("answer_tokens", 2, 4096)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"--{name.replace('_', '-')} must be within {low}..{high}")


def keep_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    """Write ``recipe`` where there is none; raise ConfigError where there is another."""
    wanted = json.loads(json.dumps(dict(recipe)))
    if not path.is_file():
        make_folder(path.parent)
        write_whole(path, json.dumps(wanted, indent=1).encode())
        return
    found = CHECKPOINT_JSON.read_object(path)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{path.parent} was begun with {name} {found.get(name)}, not {value}; go on with that, or name "
                "another folder"
            )


def as_mapping(recipe: CollectRecipe) -> dict[str, Any]:
    """The recipe as plain values."""
    return asdict(recipe)
