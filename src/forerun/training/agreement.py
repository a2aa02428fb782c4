"""How often a draft agrees with text that the target wrote and the draft never saw, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forerun.training.batches import piece_of
from forerun.training.network import Network
from forerun.training.shards import Document
from forerun.training.torch_module import need_torch


def agreement(network: Network, documents: Sequence[Document]) -> dict[str, Any]:
    """Over the answers of held-out ``documents``, each token after the target's own ones. "greedy": how often the
    draft's best token is the target's, where the target was greedy; "drawn": the probability that the draft gives to
    tokens that were drawn, at their temperature; "known": the share of tokens that the draft can draft at all."""
    torch = need_torch()
    vocab_size = network.shape.vocab_size
    sums, counts = {"greedy": 0.0, "drawn": 0.0, "known": 0.0}, {"greedy": 0, "drawn": 0, "known": 0}
    for document in (each for each in documents if each.held_out and len(each.tokens) > each.answer):
        piece, tokens = piece_of([document], vocab_size), len(document.tokens) - document.answer
        with torch.no_grad():
            hidden = network.hidden(torch.from_numpy(piece.ids)).flatten(0, 1)[torch.from_numpy(piece.places)]
            logits = network.logits(hidden)
        labels = torch.from_numpy(piece.labels)
        kind = "drawn" if document.temperature else "greedy"
        if kind == "greedy":
            right = (logits.argmax(-1) == labels).float()
        else:
            shares = (logits / document.temperature).softmax(-1)
            right = shares.gather(1, labels[:, None])
        for name, amount in ((kind, float(right.sum())), ("known", float(len(labels)))):
            sums[name] += amount
            counts[name] += tokens
    return {name: sums[name] / counts[name] if counts[name] else None for name in sums}
