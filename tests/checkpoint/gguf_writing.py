"""Small random GGUF files, written with the gguf package the way llama.cpp's converter lays models out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.tiny_checkpoints import (
    CHAT_TEMPLATE,
    MIN_VOCAB,
    SPECIAL_TOKENS,
    tiny_config,
    tiny_tensors,
    tokenizer_vocabulary,
)

CONTROL, NORMAL = 3, 1
_NAMES = (
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
)


def gguf_config(family: str, **overrides: Any) -> dict[str, Any]:
    """A tiny configuration whose rows fit blocks of 32."""
    shapes: dict[str, Any] = {"hidden_size": 64, "head_dim": 32, "intermediate_size": 96, "vocab_size": MIN_VOCAB + 10}
    shapes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    return tiny_config(family, **(shapes | overrides))


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    *,
    kind: str = "F32",
    seed: int = 0,
    edit: Callable[[Any], None] = lambda writer: None,
    change: Callable[[dict[str, NDArray[np.float32]]], None] = lambda tensors: None,
    tokenizer: bool = True,
    part_tensors: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """Write the model and return its tensors (float32, Hugging Face's names and order, before quantisation).

    kind: type of the matrices. edit: called with the writer before the header is written. change: edits the tensors.
    part_tensors: when above 0, the file is split into parts with so many tensors each.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    tensors = tiny_tensors(config, seed=seed)
    change(tensors)
    architecture = config["model_type"] if config["model_type"] != "mistral" else "llama"
    writer = GGUFWriter(path, architecture, split_max_tensors=part_tensors)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if tokenizer:
        add_tokenizer(writer, config["vocab_size"])
    edit(writer)
    for name, values in tensors.items():
        if config["model_type"] in ("llama", "mistral"):
            values = interleave(name, values, config)
        target = GGMLQuantizationType[kind] if values.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), quantize(np.ascontiguousarray(values), target), raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def add_tokenizer(writer: Any, vocab_size: int, pre: str = "gpt-2") -> None:
    """Add the byte-level vocabulary of the tiny checkpoints."""
    vocab, merges = tokenizer_vocabulary(vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(vocab))
    writer.add_token_types([CONTROL if token in SPECIAL_TOKENS else NORMAL for token in vocab])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


def gguf_name(name: str) -> str:
    """GGUF's name of a Hugging Face tensor."""
    for hugging_face, ggml in _NAMES:
        name = name.replace(hugging_face, ggml)
    return name


def interleave(name: str, values: NDArray[np.float32], config: Mapping[str, Any]) -> NDArray[np.float32]:
    """llama.cpp's row order of q and k: the rows of the two halves of each head alternate."""
    if "q_proj" in name:
        heads = config["num_attention_heads"]
    elif "k_proj" in name:
        heads = config["num_key_value_heads"]
    else:
        return values
    halves = values.reshape(heads, 2, config["head_dim"] // 2, -1)
    return halves.swapaxes(1, 2).reshape(values.shape)
