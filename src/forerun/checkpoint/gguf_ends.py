"""Which tokens of a GGUF vocabulary end a generation.

A file names few of them by id, and often one only. The others are known by their text, as the ends of turns, documents
and fill-in tasks of the published models, whatever type the file gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_END_TEXTS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<end_of_utterance>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
)  # fmt: skip
_FILL_IN_TEXTS = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
"""Padding and separators of fill-in tasks: behind them another file would begin."""

_MARKUP = {"</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<PAD>", "[PAD]", "<REPO>"}
"""What people write too (``</s>`` ends struck-out text): an end only where the file calls the token a special one."""

_CONTINUED = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})
"""With one of these pairs in the vocabulary, ``<|end|>`` ends a message within an answer, not the answer."""


def end_tokens(
    tokens: Sequence[str], special: Callable[[int], bool], id_of: Callable[[str], int | None]
) -> tuple[list[int], list[int]]:
    """Return (ids that the file names, ids known by text) of the tokens that end a generation.

    special: whether the file gives a token a special type. id_of: the valid id under
    ``tokenizer.ggml.<name>_token_id``, or None. The texts of a fill-in role count where the file names no id for it.
    """
    named = [id_of(name) for name in ("eos", "eot", "eom", *_FILL_IN_TEXTS)]
    places = {token: i for i, token in enumerate(tokens) if token not in _MARKUP or special(i)}
    texts = list(_END_TEXTS)
    if any(pair <= places.keys() for pair in _CONTINUED):
        texts.remove("<|end|>")
    for name, spellings in _FILL_IN_TEXTS.items():
        if id_of(name) is None:
            texts += spellings
    return [i for i in named if i is not None], [places[text] for text in texts if text in places]
