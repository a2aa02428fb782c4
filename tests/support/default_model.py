"""The default model for tests: skipped where it is not installed, required where FORERUN_REQUIRE_DEFAULT_MODEL=1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forerun.checkpoint.default_model import default_model_path
from forerun.errors import CheckpointError

REQUIRE = "FORERUN_REQUIRE_DEFAULT_MODEL"


def require_default_model() -> Path:
    """The model's file; skips the test when it is not installed, fails it when the environment insists on it."""
    try:
        return default_model_path()
    except CheckpointError as error:
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{REQUIRE}=1, but {error}")
        pytest.skip(str(error))
