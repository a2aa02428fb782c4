"""The tokenizer in a GGUF file's metadata -> the files that a Hugging Face folder has."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.checkpoint.bpe import adds_bos, byte_level_document, sentencepiece_document
from forerun.checkpoint.gguf_ends import end_tokens
from forerun.checkpoint.gguf_header import GGUFFile
from forerun.errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SAMPLING_KEYS = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


@dataclass(frozen=True)
class GGUFTokenizer:
    """tokens: texts by id. token_ids: "bos", "pad", "unk" (int or None) and "eos" (tuple). files: name -> bytes."""

    tokens: list[str]
    token_ids: dict[str, Any]
    files: dict[str, bytes]
    generation_config: dict[str, Any]


def read_tokenizer(file: GGUFFile) -> GGUFTokenizer:
    """Build tokenizer.json, tokenizer_config.json and generation_config.json from the metadata.

    Raises CheckpointError when there is no tokenizer, or one of a kind that cannot be rebuilt exactly.
    """
    meta, where = file.metadata, str(file.path)
    model = file.text("tokenizer.ggml.model")
    if model is None:
        raise CheckpointError(
            f"{where}: it holds no tokenizer (tokenizer.ggml.model is missing); use a complete GGUF file"
        )
    if model not in ("gpt2", "llama"):
        raise CheckpointError(f"{where}: tokenizer model {model!r:.40} is not supported; supported: gpt2, llama")
    tokens, types = _vocabulary(meta, where)
    ids = _token_ids(file, tokens, types, spm=model == "llama")
    pre = file.text("tokenizer.ggml.pre") or "default"
    add_bos = file.flag("tokenizer.ggml.add_bos_token", model == "llama" or adds_bos(pre))
    add_eos = file.flag("tokenizer.ggml.add_eos_token", False)
    prefix = [ids["bos"]] if add_bos and ids["bos"] is not None else []
    suffix = [ids["eos"][0]] if add_eos and ids["eos"] else []
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    added = [_added(i, tokens[i], types[i]) for i in range(len(tokens)) if types[i] in (UNKNOWN, CONTROL, USER_DEFINED)]
    frame = ([(tokens[i], i) for i in prefix], [(tokens[i], i) for i in suffix])
    if model == "gpt2":
        merges = _merges(meta, where)
        document = byte_level_document(pre, vocab, merges, added, frame, where)
    else:
        scores = _scores(meta, tokens, types, where)
        spaced = file.flag("tokenizer.ggml.add_space_prefix", True)
        unknown = None if ids["unk"] is None else tokens[ids["unk"]]
        document = sentencepiece_document(vocab, scores, added, frame, spaced, unknown)
    generation = _generation_config(meta, ids)
    files = {
        "tokenizer.json": json.dumps(document, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(_tokenizer_config(file, ids, tokens, add_bos, add_eos), indent=2).encode(),
        "generation_config.json": json.dumps(generation, indent=2).encode(),
    }
    _validate(files["tokenizer.json"], where)
    return GGUFTokenizer(tokens, ids, files, generation)


def _vocabulary(meta: Mapping[str, Any], where: str) -> tuple[list[str], list[int]]:
    tokens = meta.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise CheckpointError(f"{where}: tokenizer.ggml.tokens is missing or empty; the tokenizer is incomplete")
    types = _numbers(meta, "tokenizer.ggml.token_type", "iu", len(tokens), where)
    types = [NORMAL] * len(tokens) if types is None else [int(kind) for kind in types]
    tokens, types = _without_empty(tokens, types)
    twice = [token for token, count in Counter(tokens).items() if count > 1]
    if twice:
        raise CheckpointError(f"{where}: token {twice[0]!r:.60} occurs twice in tokenizer.ggml.tokens; damaged")
    return tokens, types


def _without_empty(tokens: list[str], types: list[int]) -> tuple[list[str], list[int]]:
    """Tokens without a text stand for nothing and are never the result of a text: names for them, and UNUSED."""
    named = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    return named, [kind if token else UNUSED for token, kind in zip(tokens, types, strict=True)]


def _numbers(meta: Mapping[str, Any], key: str, kinds: str, count: int, where: str) -> list[Any] | None:
    """One number for each token, of NumPy's kind "iu" (integers) or "f"; None when the key is absent."""
    values = meta.get(key)
    if values is None:
        return None
    if not isinstance(values, np.ndarray) or values.size != count or values.dtype.kind not in kinds:
        what = "integer" if kinds == "iu" else "float"
        raise CheckpointError(f"{where}: {key} must hold one {what} for each of the {count} tokens")
    numbers: list[Any] = values.tolist()
    return numbers


def _merges(meta: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """The pairs of tokenizer.ggml.merges: two texts with a space between; the first is never empty."""
    merges = meta.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise CheckpointError(f"{where}: tokenizer.ggml.merges is missing; the tokenizer is incomplete")
    pairs = []
    for merge in merges:
        cut = merge.find(" ", 1)
        if cut < 0:
            raise CheckpointError(f"{where}: {merge!r:.60} in tokenizer.ggml.merges is not a pair; damaged")
        pairs.append((merge[:cut], merge[cut + 1 :]))
    return pairs


def _scores(meta: Mapping[str, Any], tokens: list[str], types: list[int], where: str) -> dict[str, float]:
    """Scores of the tokens that text can be merged into."""
    scores = _numbers(meta, "tokenizer.ggml.scores", "f", len(tokens), where)
    if scores is None:
        raise CheckpointError(f"{where}: tokenizer.ggml.scores is missing; the tokenizer is incomplete")
    return {token: float(scores[i]) for i, token in enumerate(tokens) if types[i] == NORMAL}


def _token_ids(file: GGUFFile, tokens: list[str], types: list[int], spm: bool) -> dict[str, Any]:
    """The special ids by role; the type of an end that is known by its text becomes CONTROL."""

    def one(name: str, default: int | None = None) -> int | None:
        value = file.integer(f"tokenizer.ggml.{name}_token_id")
        value = default if value is None and spm else value
        return value if value is not None and 0 <= value < len(tokens) else None

    def is_special(number: int) -> bool:
        return types[number] in (CONTROL, USER_DEFINED)

    named, known = end_tokens(tokens, is_special, lambda name: one(name, 2 if name == "eos" else None))
    for number in known:
        types[number] = CONTROL
    ends = tuple(dict.fromkeys(named + known))
    return {"bos": one("bos", 1), "eos": ends, "pad": one("padding"), "unk": one("unknown", 0)}


def _added(number: int, text: str, kind: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, **flags, "special": kind != USER_DEFINED}


def _generation_config(meta: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {"bos_token_id": ids["bos"], "eos_token_id": list(ids["eos"]), "pad_token_id": ids["pad"]}
    for key, name in _SAMPLING_KEYS.items():
        value = meta.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            config[name] = float(str(np.float32(value))) if isinstance(value, float) else value
            config["do_sample"] = True
    return {key: value for key, value in config.items() if value is not None}


def _tokenizer_config(
    file: GGUFFile, ids: Mapping[str, Any], tokens: list[str], add_bos: bool, add_eos: bool
) -> dict[str, Any]:
    def text(number: int | None) -> str | None:
        return None if number is None else tokens[number]

    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text(ids["bos"]),
        "eos_token": text(ids["eos"][0]) if ids["eos"] else None,
        "pad_token": text(ids["pad"]),
        "unk_token": text(ids["unk"]),
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.integer(f"{file.text('general.architecture')}.context_length"),
    }
    start = "tokenizer.chat_template"
    named = {key[len(start) + 1 :]: file.text(key) for key in file.metadata if key.startswith(start + ".")}
    main = file.text(start)
    if main is not None and named:
        config["chat_template"] = [
            {"name": name, "template": text} for name, text in {"default": main, **named}.items()
        ]
    elif main is not None:
        config["chat_template"] = main
    return {key: value for key, value in config.items() if value is not None}


def _validate(document: bytes, where: str) -> None:
    """Let the tokenizers library read what was built, so that a damaged vocabulary shows now."""
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_str(document.decode())
    except Exception as error:
        raise CheckpointError(f"{where}: its tokenizer is contradictory ({error!s:.160})") from None
