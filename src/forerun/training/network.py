"""A Llama with tied embeddings as a function of its tensors, for torch's gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forerun.training.shape import DraftShape
from forerun.training.torch_module import need_torch

Tensor = Any
"""torch.Tensor."""


class Network:
    """``tensors``: float32, by Hugging Face name; they are the parameters that training changes."""

    def __init__(self, shape: DraftShape, tensors: Mapping[str, Tensor]) -> None:
        self._torch = need_torch()
        self.shape, self.tensors = shape, dict(tensors)

    def hidden(self, ids: Tensor) -> Tensor:
        """Normed hidden states [B, T, hidden] of sequences [B, T] that are padded behind their ends."""
        functional = self._torch.nn.functional
        x = functional.embedding(ids.clamp(max=self.shape.vocab_size - 1), self.tensors["model.embed_tokens.weight"])
        turns = self._turns(ids.shape[1], ids.device)
        for layer in range(self.shape.layers):
            prefix = f"model.layers.{layer}."
            x = x + self._attention(prefix, self._norm(x, prefix + "input_layernorm"), turns)
            x = x + self._mlp(prefix, self._norm(x, prefix + "post_attention_layernorm"))
        return self._norm(x, "model.norm")

    def logits(self, hidden: Tensor) -> Tensor:
        """Of any rows of hidden states."""
        return self._torch.nn.functional.linear(hidden, self.tensors["model.embed_tokens.weight"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = self._torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.shape.rms_norm_eps)
        return x * scale * self.tensors[name + ".weight"]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return self._torch.nn.functional.linear(x, self.tensors[name + ".weight"])

    def _mlp(self, prefix: str, x: Tensor) -> Tensor:
        gate = self._torch.nn.functional.silu(self._linear(x, prefix + "mlp.gate_proj"))
        return self._linear(gate * self._linear(x, prefix + "mlp.up_proj"), prefix + "mlp.down_proj")

    def _attention(self, prefix: str, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        shape = self.shape
        batch, length = x.shape[:2]

        def heads(name: str, count: int) -> Tensor:
            made = self._linear(x, f"{prefix}self_attn.{name}_proj")
            return made.view(batch, length, count, shape.head_dim).transpose(1, 2)

        q, k, v = heads("q", shape.heads), heads("k", shape.kv_heads), heads("v", shape.kv_heads)
        q, k = self._turned(q, turns), self._turned(k, turns)
        shared = shape.heads // shape.kv_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        mixed = self._torch.nn.functional.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True)
        return self._linear(mixed.transpose(1, 2).reshape(batch, length, -1), prefix + "self_attn.o_proj")

    def _turns(self, length: int, device: Any) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, head_dim / 2]."""
        torch = self._torch
        half = torch.arange(0, self.shape.head_dim, 2, dtype=torch.float64, device=device) / self.shape.head_dim
        angles = torch.outer(torch.arange(length, device=device).double(), self.shape.rope_theta**-half)
        return angles.cos().float(), angles.sin().float()

    def _turned(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = turns
        low, high = x.float().chunk(2, -1)
        return self._torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(x.dtype)
