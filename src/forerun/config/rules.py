"""What is checked between settings: the original's 35 rejection rules judged one by one, and the rules of ours.

The table is data: the checks run from it, and docs/flags.md prints it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from forerun.config.all_settings import AllSettings
from forerun.errors import ConfigError

Check = Callable[[AllSettings], "str | None"]
Decision = Literal["kept", "adapted", "dropped", "ours"]


@dataclass(frozen=True)
class Rule:
    """One rule: its number in the original's list (or a letter of ours), what we do about it, and the check if any.

    ``check`` returns the whole message when the rule is broken, else None.
    """

    number: str
    condition: str
    decision: Decision
    why: str
    check: Check | None = None


def check_rules(config: AllSettings) -> None:
    """Raise ConfigError with the message of the first broken rule."""
    for rule in RULES:
        message = rule.check(config) if rule.check else None
        if message:
            raise ConfigError(message)


def minimum_blocks(config: AllSettings) -> int:
    """KV blocks that one sequence of ``max_length`` tokens needs: below this some valid request could never finish."""
    return math.ceil(config.max_length / config.pa_block_size)


def full_batch_blocks(config: AllSettings) -> int:
    """KV blocks with which ``max_seqs`` sequences of ``max_length`` tokens run without ever waiting for each other."""
    return config.max_seqs * minimum_blocks(config)


def _context_within_length(c: AllSettings) -> str | None:
    if c.max_context_length <= c.max_length:
        return None
    return (
        f"max_context_length {c.max_context_length} cannot be more than max_length {c.max_length}: "
        "lower max_context_length or raise seq_len"
    )


def _context_buckets(c: AllSettings) -> str | None:
    largest = max(c.context_encoding_buckets or (0,))
    if largest <= c.max_context_length:
        return None
    return (
        f"context_encoding_buckets: bucket {largest} should be <= {c.max_context_length} (max_context_length): "
        "remove it or raise max_context_length"
    )


def _decode_buckets(c: AllSettings) -> str | None:
    largest = max(c.token_generation_buckets or (0,))
    if largest <= c.max_length:
        return None
    return (
        f"token_generation_buckets: bucket {largest} should be <= {c.max_length} (max_length): "
        "remove it or raise seq_len"
    )


def _prefix_buckets(c: AllSettings) -> str | None:
    largest = max(c.prefix_buckets or (0,))
    if largest <= c.max_context_length:
        return None
    return (
        f"prefix_buckets: bucket {largest} should be <= {c.max_context_length} (max_context_length): "
        "remove it or raise max_context_length"
    )


def _decode_batches(c: AllSettings) -> str | None:
    largest = max(c.token_generation_batches or (0,))
    if largest <= c.tkg_batch_size:
        return None
    return (
        f"token_generation_batches: batch {largest} should be <= {c.tkg_batch_size} (tkg_batch_size): "
        "remove it or raise tkg_batch_size"
    )


def _int4_is_grouped(c: AllSettings) -> str | None:
    if not c.quantized or c.quantization_dtype != "int4" or c.quantization_type == "groupwise":
        return None
    return (
        f"quantization_type {c.quantization_type} with quantization_dtype int4 is refused: "
        "sixteen steps are too few for a whole channel; use quantization_type groupwise or quantization_dtype int8"
    )


def _quantization_is_asked_for(c: AllSettings) -> str | None:
    if c.quantized or (c.quantization_dtype == "int8" and c.quantization_type == "groupwise"):
        return None
    key = "quantization_dtype" if c.quantization_dtype != "int8" else "quantization_type"
    return f"{key} {getattr(c, key)} needs quantized: add --quantized, or leave {key} out"


def _kv_quantization_is_asked_for(c: AllSettings) -> str | None:
    if c.kv_cache_quant or c.kv_quant_config is None:
        return None
    return "kv_quant_config needs kv_cache_quant: add --kv-cache-quant, or leave the KV quantization settings out"


def _buckets_are_enabled(c: AllSettings) -> str | None:
    if c.enable_bucketing:
        return None
    for key in ("context_encoding_buckets", "token_generation_buckets", "prefix_buckets", "token_generation_batches"):
        if getattr(c, key):
            return f"{key} needs enable_bucketing: add --enable-bucketing, or leave {key} out"
    return None


def _prefix_buckets_are_used(c: AllSettings) -> str | None:
    if c.prefix_buckets is None or c.is_prefix_caching:
        return None
    return "prefix_buckets needs is_prefix_caching: add --enable-prefix-caching, or leave prefix_buckets out"


def _enough_blocks(c: AllSettings) -> str | None:
    if c.pa_num_blocks is None or c.pa_num_blocks >= minimum_blocks(c):
        return None
    return (
        f"pa_num_blocks {c.pa_num_blocks} is below the minimum: one sequence needs ceil(max_length / pa_block_size) = "
        f"ceil({c.max_length} / {c.pa_block_size}) = {minimum_blocks(c)} blocks; give at least that many "
        f"({full_batch_blocks(c)} serve {c.max_seqs} full sequences at once)"
    )


def _new_tokens_fit(c: AllSettings) -> str | None:
    if c.max_new_tokens is None or c.max_new_tokens < c.max_length:
        return None
    return (
        f"max_new_tokens {c.max_new_tokens} leaves no room for a prompt within max_length {c.max_length}: "
        "lower max_new_tokens or raise seq_len"
    )


def _world_is_product(c: AllSettings) -> str | None:
    product = c.tp_degree * c.pp_degree * c.ep_degree
    if c.world_size == product:
        return None
    return f"world_size {c.world_size} must be tp_degree x pp_degree x ep_degree = {product}: leave world_size out"


def _local_ranks(c: AllSettings) -> str | None:
    if c.start_rank_id + c.local_ranks_size <= c.world_size:
        return None
    return (
        f"start_rank_id {c.start_rank_id} and local_ranks_size {c.local_ranks_size} reach beyond the {c.world_size} "
        "ranks of tp_degree: lower them, or leave them out"
    )


def _decode_batch_is_reachable(c: AllSettings) -> str | None:
    if c.max_batch_size >= max(c.batch_size, c.tkg_batch_size):
        return None
    return (
        f"max_batch_size {c.max_batch_size} is below batch_size {c.batch_size} or tkg_batch_size {c.tkg_batch_size}: "
        "leave max_batch_size out"
    )


_ONE_RANK = "these degrees are refused above 1"
_KERNELS = "kernel switches have no effect here, so no two of them can clash"
_FREE = "no such clash: lengths, block tables and draft lengths are data for one program"

RULES: tuple[Rule, ...] = (
    Rule("1", "cast_type is config or as-declared", "kept", "checked as the choices of the field"),
    Rule("2", "attention_dtype equals torch_dtype unless as-declared", "dropped", "attention is always float32"),
    Rule("3", "max_context_length <= max_length", "kept", "a prompt must fit", _context_within_length),
    Rule("4", "context buckets <= max_context_length", "kept", "no prompt could use them", _context_buckets),
    Rule("5", "token generation buckets <= max_length", "kept", "no sequence could use them", _decode_buckets),
    Rule("6", "decode batch buckets <= tkg_batch_size", "kept", "no batch could use them", _decode_batches),
    Rule("7", "decode batch buckets without speculation, block KV, prefix caching ...", "dropped", _FREE),
    Rule("8", "quantized needs quantized_checkpoints_path", "dropped", "weights are quantised while compiling"),
    Rule("9", "quantized with the qkv kernel needs modules_to_not_convert", "dropped", _KERNELS),
    Rule(
        "10",
        "known quantization dtype",
        "adapted",
        "int8 and int4; f8e4m3 is refused with the reason; int4 only in groups",
        _int4_is_grouped,
    ),
    Rule("11", "Medusa without async", "dropped", "Medusa is refused as a whole"),
    Rule("12", "warning: unfused speculation with async", "dropped", "async mode has no effect here"),
    Rule("13", "chunked prefill needs block KV", "dropped", "the KV cache is always stored in blocks"),
    Rule("14", "chunked prefill without its own decode model needs batch 1", "dropped", _FREE),
    Rule("15", "tensor capture needs on-device sampling", "dropped", "tensor capture is refused as a whole"),
    Rule("16", "tp divisible by cp; strided CP kernel needs cp > 1", "adapted", _ONE_RANK),
    Rule("17", "mlp_cp > 1 needs sequence parallel", "adapted", _ONE_RANK),
    Rule("18", "no static activation quantization with fused qkv", "adapted", "static is refused as a value"),
    Rule("19", "no activation quantization with the MLP kernels", "dropped", _KERNELS),
    Rule("20", "rmsnorm-quantize kernel needs the quantized MLP kernel", "dropped", _KERNELS),
    Rule("21", "TKG attention kernel needs a qkv kernel", "dropped", _KERNELS),
    Rule("22", "TKG cache update needs the TKG kernel", "dropped", _KERNELS),
    Rule("23", "TKG kernel without flash decoding or chunked prefill", "dropped", _KERNELS),
    Rule("24", "transposed K without flash decoding, chunked prefill, block KV", "dropped", _KERNELS),
    Rule("25", "fuse-rope needs both qkv kernels", "dropped", _KERNELS),
    Rule("26", "attention DP divides tp, batch and cp", "adapted", _ONE_RANK),
    Rule("27", "windowed context size equals the sliding window", "dropped", "every piece of a prompt is exact"),
    Rule("28", "chunked attention (Llama 4) limits", "adapted", "the family is refused when the checkpoint is read"),
    Rule("29", "required model attributes", "adapted", "named when the checkpoint is read; pad_token_id is not needed"),
    Rule("30", "EAGLE3 without prefix caching", "dropped", "EAGLE is refused as a whole"),
    Rule("31", "fused speculation and prefix caching without async", "dropped", "async mode has no effect here"),
    Rule("32", "chunked prefill refused when the model is built", "dropped", "prompts can always be run in chunks"),
    Rule("33", "residual-add kernels without sequence parallel; qkv kernel with fused qkv", "dropped", _KERNELS),
    Rule("34", "image and Llama 4 models without block KV ...", "adapted", "those families are refused when read"),
    Rule("35", "draft and target torch_dtype agree", "dropped", "every model keeps its own weight format"),
    Rule(
        "a",
        "pa_num_blocks holds at least one full sequence",
        "ours",
        "the original starts and fails later; the message shows the formula",
        _enough_blocks,
    ),
    Rule("b", "bucket lists need enable_bucketing", "ours", "the original ignores the lists", _buckets_are_enabled),
    Rule("c", "prefix_buckets need is_prefix_caching", "ours", "ignored by the original", _prefix_buckets_are_used),
    Rule("d", "prefix buckets <= max_context_length", "ours", "not checked at all by the original", _prefix_buckets),
    Rule(
        "e",
        "quantization_dtype / quantization_type need quantized",
        "ours",
        "the original ignores them",
        _quantization_is_asked_for,
    ),
    Rule("f", "kv_quant_config needs kv_cache_quant", "ours", "ignored by the original", _kv_quantization_is_asked_for),
    Rule("g", "max_new_tokens < max_length", "ours", "a prompt needs at least one token", _new_tokens_fit),
    Rule("h", "world_size is the product of its degrees", "ours", "a contradiction otherwise", _world_is_product),
    Rule("i", "start_rank_id + local_ranks_size <= world_size", "ours", "a contradiction otherwise", _local_ranks),
    Rule("j", "max_batch_size >= batch_size, tkg_batch_size", "ours", "a contradiction", _decode_batch_is_reachable),
)
