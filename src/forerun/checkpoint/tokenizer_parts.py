"""Which parts a tokenizer.json may be made of: those that published tokenizers of the supported families have.

The tokenizer library runs what the file says. Some of its other parts panic, abort the process or draw random numbers,
so a part is named here before it is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from forerun.errors import CheckpointError

_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "normalizer": (
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Lowercase",
        "Strip",
        "StripAccents",
        "Replace",
        "Prepend",
        "Sequence",
    ),
    "pre_tokenizer": (
        "ByteLevel",
        "Split",
        "Digits",
        "Punctuation",
        "Metaspace",
        "Whitespace",
        "WhitespaceSplit",
        "Sequence",
    ),
    "post_processor": ("ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing", "Sequence"),
    "model": ("BPE", "Unigram", "WordPiece", "WordLevel"),
}
_LISTS = ("normalizers", "pretokenizers", "processors")
_MAX_PARTS, _MAX_PATTERN_CHARS, _MAX_NESTING, _MAX_WORD_CHARS = 64, 4096, 32, 1024
_MAX_ID = (1 << 31) - 1


def check_parts(document: Mapping[str, Any]) -> None:
    """Raise CheckpointError when tokenizer.json (``document``) has a part that is not supported or out of bounds.

    Decoders are read by :mod:`forerun.checkpoint.detokenizer`, which has a list of its own.
    """
    for place, allowed in _ALLOWED.items():
        parts = list(_flat(document.get(place), place))
        if len(parts) > _MAX_PARTS:
            raise _refused(f"{place} has more than {_MAX_PARTS} parts")
        for part in parts:
            kind = part.get("type", "BPE" if place == "model" else None)  # models of old files have no type
            if kind not in allowed:
                raise _refused(f"{place} {kind!r:.60} is not supported; supported: {', '.join(sorted(allowed))}")
            _check_pattern(part.get("pattern"), place)
            _check_words(part, place)
            _check_not_empty(part)
    if document.get("model") and document["model"].get("dropout"):
        raise _refused("a model with dropout gives other tokens each time")
    _check_added(document.get("added_tokens"))


def _flat(part: Any, place: str) -> Iterator[Mapping[str, Any]]:
    """A part and those inside it."""
    stack = [part] if part is not None else []
    while stack:
        found = stack.pop()
        if not isinstance(found, Mapping):
            raise _refused(f"{place} is no object")
        yield found
        for key in _LISTS:
            inner = found.get(key, [])
            if not isinstance(inner, list):
                raise _refused(f"{place}: {key} is no list")
            stack.extend(inner)


def _check_pattern(pattern: Any, place: str) -> None:
    text = pattern.get("Regex", pattern.get("String")) if isinstance(pattern, Mapping) else pattern
    if text is None:
        return
    if not isinstance(text, str) or len(text) > _MAX_PATTERN_CHARS:
        raise _refused(f"{place}: a pattern must be a text of at most {_MAX_PATTERN_CHARS} characters")
    depth = 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if depth > _MAX_NESTING:
            raise _refused(f"{place}: a pattern is nested more than {_MAX_NESTING} deep")


def _check_words(part: Mapping[str, Any], place: str) -> None:
    """Texts that a part puts into every prompt."""
    for key in ("content", "prepend", "replacement"):
        if len(str(part.get(key, ""))) > _MAX_WORD_CHARS:
            raise _refused(f"{place}: {key} is longer than {_MAX_WORD_CHARS} characters")


def _check_not_empty(part: Mapping[str, Any]) -> None:
    """Texts without which the library fails on every prompt."""
    kind = part.get("type")
    if kind == "Prepend" and not part.get("prepend"):
        raise _refused("normalizer Prepend: prepend is empty")
    if kind == "Replace" and part.get("pattern") in ("", {"String": ""}, {"Regex": ""}):
        raise _refused("normalizer Replace: pattern is empty")


def _check_added(tokens: Any) -> None:
    for token in [] if tokens is None else tokens if isinstance(tokens, list) else [tokens]:
        if not isinstance(token, Mapping) or not isinstance(token.get("content"), str) or not token["content"]:
            raise _refused(f"added token {token!r:.80} has no text")
        number = token.get("id")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MAX_ID:
            raise _refused(f"added token {token['content']!r:.80} has no id within 0..{_MAX_ID}")


def _refused(reason: str) -> CheckpointError:
    return CheckpointError(f"tokenizer.json: {reason}; fetch it again or convert it")
