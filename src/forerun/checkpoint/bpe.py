"""tokenizer.json documents for the two kinds of byte-pair encoding: GPT-2's byte level, and SentencePiece's.

The pre-tokenizers are those of the published tokenizers that a GGUF file names in ``tokenizer.ggml.pre``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forerun.errors import CheckpointError

Frame = tuple[list[tuple[str, int]], list[tuple[str, int]]]
"""(text, id) of the tokens that are put before and after every text."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL
)
_SPLITS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "tekken": (_TEKKEN,),
}
_OTHER_NAMES = {
    "gpt-2": ("phi-2", "a.x-4.0", "mellum", "gigachat", "exaone4", "jina-es", "jina-de", "modern-bert"),
    "smollm": ("starcoder", "refact", "codeshell", "minerva-7b", "mellum2"),
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "qwen2": ("deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"),
}
"""Names under which the same pre-tokenizer goes in files of other models."""

_KINDS = {kind: kind for kind in _SPLITS} | {name: kind for kind, names in _OTHER_NAMES.items() for name in names}
_WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")
_NORMALIZED = ("qwen2",)


def adds_bos(pre: str) -> bool:
    """Whether the models of this pre-tokenizer start every text with BOS unless the file says otherwise."""
    return _KINDS.get(pre) in ("llama-bpe", "tekken")


def byte_level_document(
    pre: str,
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    added: Sequence[Mapping[str, Any]],
    frame: Frame,
    where: str,
) -> dict[str, Any]:
    """Return tokenizer.json of a byte-level BPE. Raises CheckpointError for a pre-tokenizer not known exactly."""
    kind = _KINDS.get(pre)
    if kind is None:
        known = ", ".join(_KINDS)
        raise CheckpointError(f"{where}: pre-tokenizer {pre!r:.60} is not supported; supported: {known}")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in _SPLITS[kind]
    ]
    model = _bpe(vocab, merges) | {"ignore_merges": kind in _WHOLE_WORDS_FIRST}
    return _document(
        added,
        frame,
        normalizer={"type": "NFC"} if kind in _NORMALIZED else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        decoder=byte_level,
        model=model,
    )


def sentencepiece_document(
    vocab: Mapping[str, int],
    scores: Mapping[str, float],
    added: Sequence[Mapping[str, Any]],
    frame: Frame,
    space_prefix: bool,
    unknown: str | None,
) -> dict[str, Any]:
    """Return tokenizer.json of a SentencePiece BPE: spaces become U+2581, unknown characters become byte tokens.

    space_prefix: whether a space is put before each stretch of text (between special tokens).
    """
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = [{"type": "Prepend", "prepend": "▁"}] if space_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space_prefix else []
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *strip,
    ]
    byte_fallback = all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    model = _bpe(vocab, merges_from_scores(scores))
    model |= {"unk_token": unknown, "fuse_unk": True, "byte_fallback": byte_fallback}
    return _document(
        added,
        frame,
        normalizer={"type": "Sequence", "normalizers": [*prepend, replace]},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": decoders},
        model=model,
    )


def merges_from_scores(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return every pair of pieces that joins to a piece, best score of the joined piece first.

    Pairs of one piece keep this order: the longer left part first.
    """
    ranked = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, -len(left), left, right))
    ranked.sort()
    return [(left, right) for _, _, left, right in ranked]


def _bpe(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(vocab),
        "merges": [list(pair) for pair in merges],
    }


def _document(added: Sequence[Mapping[str, Any]], frame: Frame, **parts: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [dict(token) for token in added],
        "post_processor": _post_processor(frame),
        **parts,
    }


def _post_processor(frame: Frame) -> dict[str, Any] | None:
    before, after = frame
    if not before and not after:
        return None

    def template(sequence: str, kind: int) -> list[dict[str, Any]]:
        def special(text: str) -> dict[str, Any]:
            return {"SpecialToken": {"id": text, "type_id": kind}}

        text = {"Sequence": {"id": sequence, "type_id": kind}}
        return [*(special(token) for token, _ in before), text, *(special(token) for token, _ in after)]

    tokens = {text: {"id": text, "ids": [number], "tokens": [text]} for text, number in (*before, *after)}
    pair = template("A", 0) + template("B", 1)
    return {"type": "TemplateProcessing", "single": template("A", 0), "pair": pair, "special_tokens": tokens}
