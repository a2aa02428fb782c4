#!/usr/bin/env bash
# Both tutorials of the 70B model on paper: memory of a rank, KV blocks, compile plan, predicted TTFT and TPOT.
#
#   examples/llama3_70b_plan.sh
#
# Plans Llama-3.3-70B in bfloat16 on 64 ranks of a Trn2.48xlarge, with the tutorials' settings: without and with a draft
# model of 1B, without and with prefix caching. Needs no weights: two config.json lie here. What the figures mean, and
# where they come from, is in docs/planning.md.
#
# PYTHON (python3), MACHINE (trn2.48xlarge), ACCEPTANCE (0.98, of drafted tokens: repeated sonnets), PREFIX_HIT (0.9).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
MACHINE=${MACHINE:-trn2.48xlarge}
ACCEPTANCE=${ACCEPTANCE:-0.98}
PREFIX_HIT=${PREFIX_HIT:-0.9}

# plan FLAGS...: what all scenarios share, and the flags of one.
plan() {
    "$PYTHON" -m forerun.cli.main plan \
        --machine "$MACHINE" \
        --model-path "$here/llama-3.3-70b.json" \
        --torch-dtype bfloat16 \
        --start_rank_id 0 \
        --local_ranks_size 64 \
        --tp-degree 64 \
        --on-device-sampling \
        --top-k 1 \
        --fused-qkv \
        --sequence-parallel-enabled \
        --qkv-kernel-enabled \
        --attn-kernel-enabled \
        --mlp-kernel-enabled \
        --cc-pipeline-tiling-factor 1 \
        --pad-token-id 2 \
        --enable-bucketing \
        "$@"
}

# speculation FLAGS...: one client, prompts of 10,000 tokens, answers of 1,500.
speculation() {
    plan \
        --batch-size 1 \
        --max-context-length 12288 \
        --seq-len 12800 \
        --context-encoding-buckets 2048 4096 8192 12288 \
        --token-generation-buckets 2048 4096 8192 12800 \
        --input-tokens 10000 \
        --output-tokens 1500 \
        "$@"
}

# caching FLAGS...: four clients that ask about one long table.
caching() {
    plan \
        --batch-size 4 \
        --is-continuous-batching \
        --ctx-batch-size 1 \
        --tkg-batch-size 4 \
        --max-context-length 8192 \
        --seq-len 8192 \
        --attn-block-tkg-nki-kernel-enabled \
        --attn-block-tkg-nki-kernel-cache-update \
        --context-encoding-buckets 512 1024 2048 4096 8192 \
        --token-generation-buckets 512 1024 2048 4096 8192 \
        --input-tokens 2400 \
        --output-tokens 16 \
        "$@"
}

echo "=== Speculative decoding, scenario 1: without a draft (published: TTFT 814.2 ms, TPOT 19.6 ms)"
speculation --do-sample
echo
echo "=== Speculative decoding, scenario 2: a draft of 1B, 7 tokens a step (published: TTFT 870.1 ms, TPOT 5.3 ms)"
speculation \
    --draft-model-path "$here/llama-3.2-1b.json" \
    --enable-fused-speculation \
    --speculation-length 7 \
    --acceptance "$ACCEPTANCE"
echo
echo "=== Prefix caching, scenario 1: without"
caching --do-sample --k-cache-transposed
echo
echo "=== Prefix caching, scenario 2: with"
caching \
    --do-sample \
    --prefix-buckets 512 1024 2048 \
    --enable-block-kv-layout \
    --pa-num-blocks 2048 \
    --pa-block-size 32 \
    --enable-prefix-caching \
    --prefix-hit "$PREFIX_HIT"
