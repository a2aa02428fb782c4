"""Every flag of the original's ``inference_demo ... run``, and four of ours: one row each."""

from __future__ import annotations

from collections.abc import Mapping

from forerun.cli.demo.flag import Flag, FlagGroup
from forerun.cli.demo.readers import finite_or_none
from forerun.config import read_modules_to_not_convert
from forerun.config.absent import CAPTURE, EAGLE, LORA, MEDUSA, MOE
from forerun.config.fields import no_effect

_NO_MOE = "mixture-of-experts models are not in this version; only dense decoders are"
SAMPLING = "on_device_sampling_config"
CHUNKED = "chunked_prefill_config"
KV_QUANT = "kv_quant_config"

MODEL_TYPES = ("llama", "mistral", "mixtral", "dbrx", "qwen2", "qwen3", "qwen3_moe", "gemma3")
REFUSED_MODEL_TYPES: Mapping[str, str] = {
    "mixtral": _NO_MOE,
    "dbrx": _NO_MOE,
    "qwen3_moe": _NO_MOE,
    "gemma3": "this family is not in this version; llama, mistral, qwen2 and qwen3 are",
}
ACCURACY_MODES = ("skip-accuracy-check", "token-matching", "logit-matching", "draft-logit-matching")


def _kernel(name: str, what: str) -> Flag:
    return Flag(name, "flag", what, name.lstrip("-").replace("-", "_"))


MODEL = (
    Flag("--model-path", "str", "checkpoint: a folder, a GGUF file or a hub id", required=True),
    Flag("--compiled-model-path", "str", "artifact folder to write or read", required=True),
    Flag("--benchmark", "flag", "measure 20 runs at the end and write a report"),
    Flag("--benchmark-report-path", "str", "where the report goes", default="./benchmark_report.json"),
    Flag(
        "--check-accuracy-mode",
        "str",
        "compare with a reference before generating",
        default="skip-accuracy-check",
        choices=ACCURACY_MODES,
    ),
    Flag("--expected-outputs-path", "str", "saved reference instead of running transformers"),
    Flag("--divergence-difference-tol", "float", "allowed logit difference where tokens part", default=0.001),
    Flag("--tol-map", "str", "tolerances per top-k band, as a Python dictionary"),
    Flag("--num-tokens-to-check", "int", "check only that many tokens"),
)
GENERATION = (
    Flag(
        "--prompt", "repeat", "a prompt; several run as one batch, a single one is copied to the batch", required=True
    ),
    Flag("--top-k", "int", "sample among the k most probable tokens; 0 or -1: all", f"{SAMPLING}.top_k"),
    Flag("--top-p", "float", "sample within this cumulative probability", f"{SAMPLING}.top_p"),
    Flag("--temperature", "float", "divides the logits; 0 is greedy", f"{SAMPLING}.temperature"),
    Flag("--global-topk", "int", "first cut before top-k and top-p; 0: none", f"{SAMPLING}.global_topk"),
    Flag("--do-sample", "flag", "draw tokens instead of taking the most probable", f"{SAMPLING}.do_sample"),
    Flag("--dynamic", "flag", "sampling parameters at run time", f"{SAMPLING}.dynamic"),
    Flag("--pad-token-id", "int", "padding token", "pad_token_id"),
    Flag("--top-k-kernel-enabled", "flag", "device top-k kernel", f"{SAMPLING}.top_k_kernel_enabled"),
)
OURS = (
    Flag("--min-p", "float", "drop tokens below this share of the most probable one", f"{SAMPLING}.min_p"),
    Flag("--seed", "int", "seed of the draws; the same seed gives the same tokens", f"{SAMPLING}.seed"),
    Flag("--deterministic", "flag", "hold the random numbers constant", f"{SAMPLING}.deterministic"),
)
SHAPES = (
    Flag("--torch-dtype", "str", "type of the weights that are not quantized", "torch_dtype"),
    Flag("--batch-size", "int", "sequences of a batch; when not given, the number of prompts", "batch_size"),
    Flag("--padding-side", "str", "left or right", "padding_side"),
    Flag("--allow-input-truncation", "flag", "cut prompts that are too long", "allow_input_truncation"),
    Flag("--seq-len", "int", "longest sequence, prompt and output together", "seq_len"),
    Flag("--n-active-tokens", "int", "traced width", "n_active_tokens"),
    Flag("--n-positions", "int", "traced positions", "n_positions"),
    Flag("--max-context-length", "int", "longest prompt", "max_context_length"),
    Flag("--max-new-tokens", "int", "most tokens to generate", "max_new_tokens"),
    Flag("--max-length", "int", "longest sequence; when not given, seq-len", "max_length"),
    Flag("--rpl-reduce-dtype", "str", "type of reductions", "rpl_reduce_dtype"),
    Flag("--attention-dtype", "str", "type of attention", "attention_dtype"),
    Flag("--output-logits", "flag", "logits leave the native step", "output_logits"),
    Flag("--vocab-parallel", "flag", "embedding sharded over the vocabulary", "vocab_parallel"),
    Flag("--layer-boundary-markers", "flag", "compiler hints", "layer_boundary_markers"),
    Flag("--cast-type", "str", "one type for all weights or as declared", "cast_type"),
)
ATTENTION = (
    Flag("--fused-qkv", "flag", "one matrix for q, k and v", "fused_qkv"),
    Flag("--sequence-parallel-enabled", "flag", "prefill split over the sequence", "sequence_parallel_enabled"),
    Flag(
        "--weight-gather-seq-len-threshold",
        "int",
        "gather weights from this length on",
        "weight_gather_seq_len_threshold",
    ),
    Flag("--flash-decoding-enabled", "flag", "KV split inside a head group", "flash_decoding_enabled"),
    Flag("--is-continuous-batching", "flag", "independent sequences", "is_continuous_batching"),
    Flag("--ctx-batch-size", "int", "batch of the prefill model", "ctx_batch_size"),
    Flag("--tkg-batch-size", "int", "sequences decoded together", "tkg_batch_size"),
    Flag("--max-batch-size", "int", "most sequences together", "max_batch_size"),
    Flag("--kv-cache-batch-size", "int", "cache lines", "kv_cache_batch_size"),
    Flag("--kv-cache-padding-size", "int", "spare cache lines", "kv_cache_padding_size"),
    Flag("--disable-kv-cache-tiling", "flag", "cache layout", "kv_cache_tiling", const=False),
    Flag("--on-device-sampling", "flag", "sampling inside the step", own_status=no_effect("sampling is always native")),
    Flag("--sampling-dp-degree", "int", "ranks that share sampling", f"{SAMPLING}.sampling_dp_degree"),
    Flag("--apply-seq-ids-mask", "flag", "padded lines do not write", "apply_seq_ids_mask"),
    Flag("--k-cache-transposed", "flag", "K stored transposed", "k_cache_transposed"),
    Flag(
        "--windowed-context-encoding-size",
        "int",
        "prefill in pieces of this many tokens",
        "windowed_context_encoding_size",
    ),
    Flag("--async-mode", "flag", "next step before the last is read", "async_mode"),
)
BUCKETS = (
    Flag("--enable-bucketing", "flag", "plan several lengths (automatic without lists)", "enable_bucketing"),
    Flag("--bucket-n-active-tokens", "flag", "kept for old configurations", "bucket_n_active_tokens"),
    Flag("--context-encoding-buckets", "ints", "prompt lengths", "context_encoding_buckets"),
    Flag("--prefix-buckets", "ints", "cached prefix lengths", "prefix_buckets"),
    Flag("--token-generation-buckets", "ints", "sequence lengths while decoding", "token_generation_buckets"),
)
CACHE = (
    Flag("--enable-block-kv-layout", "flag", "KV cache in blocks", "is_block_kv_layout"),
    Flag("--pa-num-blocks", "int", "blocks of the KV cache; when not given, from free memory", "pa_num_blocks"),
    Flag("--pa-block-size", "int", "tokens of a block", "pa_block_size"),
    Flag("--enable-prefix-caching", "flag", "reuse the blocks of shared prefixes", "is_prefix_caching"),
    Flag(
        "--enable-chunked-prefill",
        "flag",
        "prompts in pieces",
        CHUNKED,
        const={},
        own_status=no_effect("long prompts always run in pieces"),
    ),
    Flag("--max-num-seqs", "int", "most sequences of one step; 0: the batch size", f"{CHUNKED}.max_num_seqs"),
)
QUANTIZATION = (
    Flag("--quantized", "flag", "integer weights", "quantized"),
    Flag("--quantized-checkpoints-path", "str", "folder for quantized weights", "quantized_checkpoints_path"),
    Flag("--quantization-type", "str", "what shares a scale", "quantization_type"),
    Flag("--quantization-dtype", "str", "integer type of the weights", "quantization_dtype"),
    Flag(
        "--modules-to-not-convert-file",
        "str",
        "JSON list of modules that stay unquantized",
        "modules_to_not_convert",
        read=read_modules_to_not_convert,
    ),
    Flag("--kv-cache-quant", "flag", "KV cache in int8", "kv_cache_quant"),
    Flag("--k-quant-method", "str", "what shares a scale in K", f"{KV_QUANT}.k_quant_method"),
    Flag("--v-quant-method", "str", "what shares a scale in V", f"{KV_QUANT}.v_quant_method"),
    Flag("--kv-quant-dtype", "str", "type of a quantized KV cache", f"{KV_QUANT}.quant_dtype"),
    Flag("--kv-direct-cast", "switch", "plain cast instead of scales", f"{KV_QUANT}.direct_cast"),
    Flag("--activation-quantization-type", "str", "static or dynamic", "activation_quantization_type"),
    _kernel("--rmsnorm-quantize-kernel-enabled", "norm and quantization in one kernel"),
    Flag("--quantize-clamp-bound", "float", "clamp of activations", "quantize_clamp_bound", read=finite_or_none),
)
EXPERTS = (
    Flag("--capacity-factor", "float", "tokens per expert", "capacity_factor"),
    Flag("--early-expert-affinity-modulation", "flag", "expert weights early", "early_expert_affinity_modulation"),
    Flag(
        "--disable-normalize-top-k-affinities",
        "flag",
        "expert weights as they are",
        "normalize_top_k_affinities",
        const=False,
    ),
    Flag("--fused-shared-experts", "flag", "shared experts in one", "fused_shared_experts"),
    Flag("--router-act-fn", "str", "router activation", own_status=MOE),
    Flag("--router-dtype", "str", "router type", own_status=MOE),
    Flag("--moe-tp-degree", "int", "tensor parallel degree of experts", "moe_tp_degree"),
    Flag("--moe-ep-degree", "int", "expert parallel degree", "moe_ep_degree"),
)
SPECULATIVE = (
    Flag("--draft-model-path", "str", "draft model: a checkpoint or an artifact"),
    Flag("--draft-model-tp-degree", "int", "ranks of the draft, which runs with all threads of its target"),
    Flag("--compiled-draft-model-path", "str", "artifact folder of the draft (default: the cache)"),
    Flag("--enable-fused-speculation", "flag", "draft and verify in one native call", "enable_fused_speculation"),
    Flag("--speculation-length", "int", "tokens per step: drafted ones and one", "speculation_length"),
    Flag("--spec-batch-size", "int", "sequences that speculate together", "spec_batch_size"),
    Flag("--enable-eagle-speculation", "flag", "EAGLE draft", "enable_eagle_speculation"),
    Flag("--enable-eagle-draft-input-norm", "flag", "norm before an EAGLE draft", "enable_eagle_draft_input_norm"),
    Flag("--is-eagle3", "flag", "EAGLE-3 draft", "is_eagle3"),
    Flag("--token-tree-json", "str", "tree of drafted tokens", own_status=EAGLE),
    Flag("--is-medusa", "flag", "Medusa heads", "is_medusa"),
    Flag("--medusa-speculation-length", "int", "tokens per step", "medusa_speculation_length"),
    Flag("--num-medusa-heads", "int", "number of heads", "num_medusa_heads"),
    Flag("--medusa-tree-json", "str", "tree of the heads", own_status=MEDUSA),
)
PARALLEL = (
    Flag("--tp-degree", "int", "tensor parallel ranks", "tp_degree", also=("--tensor-parallel-size", "-tp")),
    Flag("--cp-degree", "int", "context parallel ranks", "cp_degree"),
    Flag("--mlp-cp-degree", "int", "context parallel ranks of the MLP", "mlp_cp_degree"),
    Flag("--attention-dp-degree", "int", "data parallel ranks of attention", "attention_dp_degree"),
    Flag("--pp-degree", "int", "pipeline ranks", "pp_degree"),
    Flag("--ep-degree", "int", "expert parallel ranks", "ep_degree"),
    Flag("--world-size", "int", "all ranks", "world_size"),
    Flag("--start_rank_id", "int", "first rank of this process", "start_rank_id"),
    Flag("--local_ranks_size", "int", "ranks of this process", "local_ranks_size"),
    Flag(
        "--enable-torch-dist",
        "flag",
        "ranks on several hosts",
        own_status=no_effect("torchrun says whether there are other processes"),
    ),
    Flag("--save-sharded-checkpoint", "flag", "weights in the artifact", "save_sharded_checkpoint"),
    Flag("--skip-sharding", "flag", "no sharding while compiling", "skip_sharding"),
)
ADAPTERS = (
    Flag("--enable-lora", "flag", "LoRA adapters", own_status=LORA),
    Flag("--enable-dynamic-multi-lora", "flag", "adapters swapped at run time", own_status=LORA),
    Flag("--max-loras", "int", "adapters loaded together", default=1, own_status=LORA),
    Flag("--max-lora-rank", "int", "largest adapter rank", default=16, own_status=LORA),
    Flag("--target-modules", "strs", "modules with adapters", own_status=LORA),
    Flag("--max-cpu-loras", "int", "adapters in host memory", default=1, own_status=LORA),
    Flag("--lora-ckpt-path", "repeat", "adapter as 'id : path'", own_status=LORA),
    Flag("--lora-ckpt-path-cpu", "repeat", "adapter in host memory", own_status=LORA),
    Flag("--lora-ckpt-json", "str", "file of adapters", own_status=LORA),
    Flag("--adapter-id", "repeat", "adapter of a prompt", own_status=LORA),
)
KERNELS = (
    _kernel("--qkv-kernel-enabled", "q, k, v kernel"),
    _kernel("--qkv-nki-kernel-enabled", "q, k, v kernel, second form"),
    _kernel("--qkv-cte-nki-kernel-fuse-rope", "RoPE inside the q, k, v kernel"),
    _kernel("--qkv-kernel-nbsd-layout", "layout of the q, k, v kernel"),
    Flag("--attn-kernel-enabled", "switch", "prefill attention kernel", "attn_kernel_enabled"),
    _kernel("--strided-context-parallel-kernel-enabled", "context parallel attention kernel"),
    _kernel("--mlp-kernel-enabled", "MLP kernel"),
    _kernel("--quantized-mlp-kernel-enabled", "quantized MLP kernel"),
    _kernel("--fused-rmsnorm-skip-gamma", "norm without its weight"),
    _kernel("--mlp-kernel-fuse-residual-add", "residual inside the MLP kernel"),
    _kernel("--qkv-kernel-fuse-residual-add", "residual inside the q, k, v kernel"),
    _kernel("--attn-block-tkg-nki-kernel-enabled", "decode attention block kernel"),
    _kernel("--attn-block-tkg-nki-kernel-cascaded-attention", "cascaded decode attention"),
    _kernel("--attn-block-tkg-nki-kernel-cache-update", "cache written by the decode kernel"),
)
DEVICE = (
    Flag("--logical-nc-config", "int", "cores of a rank", "logical_nc_config", exclusive="lnc"),
    Flag("--logical-neuron-cores", "int", "old name of --logical-nc-config", "logical_nc_config", exclusive="lnc"),
    Flag("--cc-pipeline-tiling-factor", "int", "tiles of a collective", "cc_pipeline_tiling_factor"),
    Flag("--enable-spill-reload-dge", "flag", "compiler option", "enable_spill_reload_dge"),
    Flag("--scratchpad-page-size", "int", "compiler option", "scratchpad_page_size"),
)
RUN = (
    Flag("--on-cpu", "flag", "run on the CPU", "on_cpu"),
    Flag("--skip-warmup", "flag", "no warm-up after loading", "skip_warmup"),
    Flag("--skip-compile", "flag", "use the artifact that is there"),
    Flag("--compile-only", "flag", "stop after compiling"),
    Flag("--compile-dry-run", "flag", "show the plan and write nothing"),
    Flag("--hlo-debug", "flag", "compiler dumps", own_status=no_effect("`forerun inspect` shows the programs")),
    Flag("--capture-indices", "strs", "steps to capture", own_status=CAPTURE),
    Flag("--input-capture-save-dir", "str", "where captures go", own_status=CAPTURE),
    Flag("--input-start-offsets", "ints", "offsets of captured inputs", own_status=CAPTURE),
    Flag(
        "--enable-output-completion-notifications",
        "flag",
        "device notifications",
        "enable_output_completion_notifications",
    ),
)

GROUPS: tuple[FlagGroup, ...] = (
    FlagGroup("Model and evaluation", MODEL),
    FlagGroup("Prompt and generation", GENERATION),
    FlagGroup("Generation: flags of ours", OURS),
    FlagGroup("Basic shapes and types", SHAPES),
    FlagGroup("Attention, batching, cache", ATTENTION),
    FlagGroup("Buckets", BUCKETS),
    FlagGroup("Block KV, prefix caching, chunked prefill", CACHE),
    FlagGroup("Quantization", QUANTIZATION),
    FlagGroup("Mixture of experts", EXPERTS),
    FlagGroup("Speculation", SPECULATIVE),
    FlagGroup("Parallelism", PARALLEL),
    FlagGroup("LoRA", ADAPTERS),
    FlagGroup("Kernels", KERNELS),
    FlagGroup("Compiler and device", DEVICE),
    FlagGroup("Run control and debugging", RUN),
)
FLAGS: tuple[Flag, ...] = tuple(flag for group in GROUPS for flag in group.flags)
