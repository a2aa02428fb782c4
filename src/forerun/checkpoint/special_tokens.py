"""Special tokens that are named outside of tokenizer.json, by the rules that transformers reads them with.

tokenizer_config.json names roles ("eos_token") and further tokens; its ``added_tokens_decoder`` gives tokens with ids.
Only where it has none, special_tokens_map.json (which goes over it) and added_tokens.json are read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from forerun.errors import CheckpointError
from forerun.json_text import whole_number

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_DECODER = "added_tokens_decoder"


def with_special_map(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, Any]:
    """Return tokenizer_config.json's values with those of special_tokens_map.json that count."""
    return dict(config) if _DECODER in config else {**config, **special_map}


def role_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each role; an entry is a string or an object with "content"."""
    texts = {role: _text(config.get(role)) for role in ROLES}
    return {role: text for role, text in texts.items() if text is not None}


def add_special_tokens(backend: Backend, config: Mapping[str, Any], added: Mapping[str, Any], rows: int | None) -> None:
    """Make the backend know every token that ``config`` (see above) and ``added`` (added_tokens.json) name.

    rows: how many tokens the model has embeddings for; new tokens beyond them are left out, None: there is no bound.
    Raises CheckpointError for entries that are no tokens.
    """
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    roles = set(role_texts(config).values())
    further = [token for token in _further(config) if _text(token) is not None]
    named = [*(config.get(role) for role in ROLES), *further]
    stated = _stated(config, added, roles | {str(_text(token)) for token in further})
    wanted = {token.content: token for token in stated if token.content not in known or _DECODER in config}
    for entry in named:
        text = _text(entry)
        if text and text not in wanted and text not in known:
            wanted[text] = _token(entry, text, special=True)
    for text in roles:
        token = wanted.get(text) or known.get(text)
        if token is not None and not token.special:
            wanted[text] = _copy(token, special=True)
    for token in wanted.values():
        if rows is None or backend.token_to_id(token.content) is not None or _next_id(backend) < rows:
            backend.add_tokens([token])


def _stated(config: Mapping[str, Any], added: Mapping[str, Any], special: set[str]) -> list[AddedToken]:
    """The tokens that are given with their ids, by id."""
    decoder = config.get(_DECODER)
    if decoder is not None:
        ids = {key: whole_number(key) for key in decoder} if isinstance(decoder, Mapping) else {"": None}
        if None in ids.values():
            raise CheckpointError(f"tokenizer_config.json: {_DECODER} must map ids to tokens")
        entries = [decoder[key] for key in sorted(decoder, key=lambda key: ids[key] or 0)]
        return [_token(entry, _stated_text(entry)) for entry in entries]
    numbers = {text: number for text, number in added.items() if isinstance(number, int)}
    texts = sorted(numbers, key=lambda text: numbers[text])
    return [_token({"normalized": text not in special}, text, special=text in special) for text in texts]


def _stated_text(entry: Any) -> str:
    text = _text(entry)
    if text is None:
        raise CheckpointError(f"tokenizer_config.json: {_DECODER} holds {entry!r:.60}, which is no token")
    return text


def _further(config: Mapping[str, Any]) -> Iterable[Any]:
    entries = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    if isinstance(entries, Mapping):
        return list(entries.values())
    return entries if isinstance(entries, list) else ()


def _text(entry: Any) -> str | None:
    value = entry.get("content") if isinstance(entry, Mapping) else entry
    return value if isinstance(value, str) else None


def _token(entry: Any, text: str, special: bool | None = None) -> AddedToken:
    from tokenizers import AddedToken

    values = entry if isinstance(entry, Mapping) else {}
    special = bool(values.get("special", False)) if special is None else special
    flags = {name: bool(values.get(name, name == "normalized" and not special)) for name in _FLAGS}
    return AddedToken(text, special=special, **flags)


def _copy(token: AddedToken, *, special: bool) -> AddedToken:
    return _token({name: getattr(token, name) for name in _FLAGS}, token.content, special=special)


def _next_id(backend: Backend) -> int:
    """The id that the backend would give to a new token."""
    highest = max(backend.get_added_tokens_decoder(), default=-1)
    return max(highest + 1, backend.get_vocab_size(with_added_tokens=False))
