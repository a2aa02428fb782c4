"""How many tokens a text has: by a tokenizer file, or by the server's own /tokenize."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx

from forerun.bench.exchange import bearer
from forerun.errors import ForerunError, one_line

Count = Callable[[str], int]
"""Tokens of a text, those that a tokenizer adds by itself (BOS) included."""

FILE = "tokenizer.json"
MOST_TOKENS = 1 << 40
"""Of one text; a server that counts more does not count."""


def token_counter(
    tokenizer: str | None,
    model: str,
    base_urls: Sequence[str],
    api_key: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Count:
    """The counter that ``--tokenizer`` names: a folder with tokenizer.json, such a file, or a hub id.

    Without one: the folder ``model`` if it has such a file, else the servers at ``base_urls``. ``say`` is told before
    the hub is asked, which may take long. Raises ForerunError.
    """
    if tokenizer is None:
        own = Path(model) / FILE
        return file_counter(own) if own.is_file() else server_counter(base_urls, model, api_key)
    path = Path(tokenizer)
    if path.is_dir():
        path /= FILE
    if path.is_file():
        return file_counter(path)
    if tokenizer.startswith((".", "/", "~")) or tokenizer.count("/") != 1:
        raise ForerunError(f"--tokenizer {tokenizer}: no {FILE} there; give a folder that has one, or a hub id")
    say(f"--tokenizer {one_line(tokenizer)}: no such folder is here, so the hub is asked")
    return hub_counter(tokenizer)


def file_counter(path: Path) -> Count:
    """Count by a tokenizer.json. Raises ForerunError for a file that is none."""
    from tokenizers import Tokenizer

    with _one_line(f"{path} is not a tokenizer"):
        return _of(Tokenizer.from_file(str(path)), str(path))


def hub_counter(name: str) -> Count:
    """Count by the tokenizer of a hub id, fetched once. Raises ForerunError."""
    with _one_line(f"--tokenizer {name} is no folder and cannot be fetched; give a folder with {FILE}"):
        path = _from_hub(name)
    if not path.is_file():
        raise ForerunError(f"--tokenizer {name}: no {FILE} on the hub; give a folder that has one")
    return file_counter(path)


def _from_hub(name: str) -> Path:
    """Where the file is, if the hub has it. A snapshot asks once, where tokenizers' own way asks again for half a
    minute when the hub cannot be reached."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=[FILE])) / FILE


def _of(tokenizer: Any, name: str) -> Count:
    tokenizer.no_truncation()
    tokenizer.no_padding()

    @lru_cache(maxsize=4096)
    def count(text: str) -> int:
        with _one_line(f"the tokenizer {name} fails on a prompt"):
            return len(tokenizer.encode(text).ids)

    return count


@contextmanager
def _one_line(problem: str) -> Iterator[None]:
    """Turn what the tokenizer library raises into a ForerunError: plain Exceptions, and panics, which are not even
    those."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        reason, _, _ = str(error).partition("\n")
        raise ForerunError(f"{problem} ({reason})") from None


def server_counter(base_urls: Sequence[str], model: str, api_key: str = "") -> Count:
    """Count by the /tokenize (vLLM's and Forerun's) of the first server that has one. Raises ForerunError.

    A server that has failed is not asked again as long as there is another.
    """
    left = [url.removesuffix("/v1") + "/tokenize" for url in base_urls]
    headers = bearer(api_key)

    @lru_cache(maxsize=4096)
    def count(text: str) -> int:
        asked = {"model": model, "prompt": text}
        while True:
            try:
                return _told(httpx.post(left[0], json=asked, headers=headers, timeout=60, trust_env=False), text)
            except (httpx.HTTPError, ValueError) as error:
                reason = one_line(str(error) or type(error).__name__, 300)
            if len(left) == 1:
                raise ForerunError(
                    f"tokens cannot be counted by {left[0]} ({reason}): give --tokenizer FOLDER with {FILE}"
                )
            del left[0]

    return count


def _told(answer: httpx.Response, text: str) -> int:
    """The count in an answer of /tokenize. Raises ValueError with the server's own words where there is none.

    No count is below 0, and only a text without letters has none: who fills a prompt up to a length would never end.
    """
    if answer.status_code != 200:
        raise ValueError(f"{answer.status_code}: {answer.text}")
    try:
        count = answer.json()["count"]
    except (KeyError, TypeError, RecursionError):
        raise ValueError(f"no count in {answer.text}") from None
    if type(count) is not int or not bool(text) <= count <= MOST_TOKENS:
        raise ValueError(f"{count} tokens of {len(text)} characters")
    return count
