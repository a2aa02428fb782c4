"""Tokenizers of every kind that the families have against transformers: 420 varied texts, whole, streamed, answered."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, trainers

from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.checkpoint.bpe import byte_level_document, sentencepiece_document
from tests.support.default_model import require_default_model

transformers = pytest.importorskip("transformers")

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
SPECIALS = ("<unk>", "<s>", "</s>", "<|user|>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
CORPUS = [Path(module.__file__ or "").read_text("utf-8") for module in (json, random, string)]
COUNT = 420


def texts() -> list[str]:
    """Prose, code, numbers, spaces, scripts, emoji, special tokens: alone and mixed."""
    rng = random.Random(11)
    parts = [
        "The capital of France is", " Paris.", "  two spaces", "\n\n\t", "it's I'LL don't",
        "def f(x):\n    return x**2", "12345 6.02e23 1,000", "\u4e2d\u6587\u5b57\u7b26",
        "\u0645\u0631\u062d\u0628\u0627", "na\u00efve caf\u00e9 e\u0301", "\U0001f600\U0001f469\u200d\U0001f680",
        "</s>", "<s>", "<|user|>", "\u2581", " ", "\r\n", "\u00a0\u3000", "a" * 30, "<0x41>",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "&amp; <b>bold</b>", "\x00\x7f", "HTTPServer_v2", "\ufffd",
        "\u1e9b\u0323",
    ]  # fmt: skip
    lines = [line for source in CORPUS for line in source.splitlines() if line.strip()]
    found = ["", *parts]
    while len(found) < COUNT:
        pick = rng.random()
        if pick < 0.4:
            found.append("".join(rng.choices(parts, k=rng.randint(2, 6))))
        elif pick < 0.7:
            found.append(rng.choice(lines) + rng.choice(parts))
        else:
            found.append("".join(chr(rng.choice((rng.randint(9, 126), rng.randint(160, 0x2FFF)))) for _ in range(20)))
    return found


TEXTS = texts()


def added(start: int) -> list[dict[str, Any]]:
    return [{"id": start + i, "content": text, "special": True, **FLAGS} for i, text in enumerate(SPECIALS)]


def byte_level(pre: str) -> dict[str, bytes]:
    """A byte-level tokenizer with the pre-tokenizer ``pre``, trained on a few modules."""
    bare = byte_level_document(pre, {}, [], [], ([], []), "test")
    backend = Backend.from_str(json.dumps(bare))
    backend.model = models.BPE()
    alphabet = [chr(n) for n in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    )  # type: ignore[attr-defined]
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    frame = ([("<s>", len(model["vocab"]) + 1)], []) if pre == "llama-bpe" else ([], [])
    document = byte_level_document(pre, model["vocab"], merges, added(len(model["vocab"])), frame, "test")
    return {"tokenizer.json": json.dumps(document).encode()}


def sentencepiece(space: bool, decoder: dict[str, Any] | None = None) -> dict[str, bytes]:
    """A SentencePiece tokenizer whose pieces are trained on a few modules, with byte fallback."""
    backend = Backend(models.BPE())
    marked = [source.replace(" ", "\u2581") for source in CORPUS]
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, max_token_length=12)
    backend.train_from_iterator((word for text in marked for word in pieces_of(text)), trainer)
    pieces = [piece for piece, _ in sorted(backend.get_vocab().items(), key=lambda item: item[1])]
    tokens = [*SPECIALS, *BYTES, *(piece for piece in pieces if piece not in ("\n", "\t"))]
    scores = {piece: -float(i) for i, piece in enumerate(tokens[len(SPECIALS) + 256 :])}
    vocab = {token: i for i, token in enumerate(tokens)}
    document = sentencepiece_document(vocab, scores, added(0), ([("<s>", 1)], []), space, "<unk>")
    if decoder is not None:
        document["decoder"] = decoder
    return {"tokenizer.json": json.dumps(document).encode()}


def pieces_of(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from ("\u2581" + word for word in line.split("\u2581") if word)


def default_model() -> dict[str, bytes]:
    return dict(open_checkpoint(str(require_default_model())).tokenizer_files)


METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
KINDS = {
    "default-model": default_model,
    "qwen2": lambda: byte_level("qwen2"),
    "llama3": lambda: byte_level("llama-bpe"),
    "tekken": lambda: byte_level("tekken"),
    "gpt-2": lambda: byte_level("gpt-2"),
    "smollm": lambda: byte_level("smollm"),
    "default-of-gguf": lambda: byte_level("default"),
    "llama-sentencepiece": lambda: sentencepiece(True),
    "mistral-sentencepiece-no-prefix": lambda: sentencepiece(False),
    "sentencepiece-metaspace": lambda: sentencepiece(
        True, {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, METASPACE]}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_differs(kind: str, tmp_path: Path) -> None:
    files = KINDS[kind]()
    files.setdefault(
        "tokenizer_config.json",
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}).encode(),
    )
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = Tokenizer(files)
    assert len(TEXTS) == COUNT
    differing = [text for text in TEXTS if not same(ours, theirs, text)]
    assert differing == []


def same(ours: Tokenizer, theirs: Any, text: str) -> bool:
    ids = theirs(text).input_ids
    if ours.encode(text) != ids or ours.encode(text, False) != theirs(text, add_special_tokens=False).input_ids:
        return False
    for skip in (True, False):
        whole = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        stream = ours.detokenizer(skip)
        if ours.decode(ids, skip) != whole or "".join([*map(stream.push, ids), stream.flush()]) != whole:
            return False
        cut = len(ids) // 2
        prompt = theirs.decode(ids[:cut], skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        if whole.startswith(prompt) and not prompt.endswith("\ufffd"):  # else it may end within a character
            stream = ours.detokenizer(skip, ids[:cut])
            if prompt + "".join([*map(stream.push, ids[cut:]), stream.flush()]) != whole:
                return False
    return True
