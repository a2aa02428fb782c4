#!/usr/bin/env bash
# Speculative decoding, end to end: a load test of one client, first without a draft model, then with one.
#
#   examples/speculative_decoding.sh [FOLDER]
#
# Compiles a target into FOLDER (a temporary one if none is given), the default model in bfloat16 unless TARGET names
# another checkpoint, and a draft, the same model in its own four bits unless DRAFT names another; serves the target
# with the flags of a vLLM script without and with the draft, and ends in a table of both load tests. The tokens are the
# same either way. Needs bash, curl and the Python that has forerun.
#
# PYTHON (python3), TARGET and DRAFT (default), PORT (8000), REQUESTS (10), INPUT_TOKENS (1000), OUTPUT_TOKENS (150).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
TARGET=${TARGET:-default}
DRAFT=${DRAFT:-default}
PORT=${PORT:-8000}
REQUESTS=${REQUESTS:-10}
INPUT_TOKENS=${INPUT_TOKENS:-1000}
OUTPUT_TOKENS=${OUTPUT_TOKENS:-150}
source "$here/one_server.sh"

# compile FLAGS...: what both scenarios share, and the flags of one.
compile() {
    "$PYTHON" -m forerun.cli.inference_demo \
        --model-type llama \
        --task-type causal-lm \
            run \
            --model-path "$TARGET" \
            --compiled-model-path "$folder/target" \
            --torch-dtype bfloat16 \
            --start_rank_id 0 \
            --local_ranks_size 1 \
            --tp-degree 1 \
            --batch-size 1 \
            --max-context-length 7680 \
            --seq-len 8192 \
            --max-new-tokens 32 \
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
            --context-encoding-buckets 2048 4096 7680 \
            --token-generation-buckets 2048 4096 8192 \
            "$@" \
            --prompt "What is a lighthouse?" >"$folder/compile.log" 2>&1 || {
        cat "$folder/compile.log" >&2
        return 1
    }
    grep "^Output 0:" "$folder/compile.log" | tail -n 1
}

# serve FLAGS...: returns when the server answers.
serve() {
    local log=$folder/server.log
    NEURON_COMPILED_ARTIFACTS=$folder/target "$PYTHON" -m forerun.entrypoints.openai.api_server \
        --model "$TARGET" \
        --max-num-seqs 1 \
        --max-model-len 8192 \
        --tensor-parallel-size 1 \
        --device neuron \
        --use-v2-block-manager \
        "$@" \
        --port "$PORT" >"$log" 2>&1 &
    wait_for_server "$log"
}

# load NAME: the load test; its results go to the folder NAME.
load() {
    OPENAI_API_BASE="$url/v1" OPENAI_API_KEY=mock_key "$PYTHON" "$here/token_benchmark_ray.py" \
        --model "$TARGET" \
        --mean-input-tokens "$INPUT_TOKENS" \
        --stddev-input-tokens 0 \
        --mean-output-tokens "$OUTPUT_TOKENS" \
        --stddev-output-tokens 0 \
        --num-concurrent-requests 1 \
        --timeout 3600 \
        --max-num-completed-requests "$REQUESTS" \
        --tokenizer "$folder/target" \
        --additional-sampling-params '{"temperature": 0, "ignore_eos": true}' \
        --results-dir "$folder/$1" \
        --llm-api openai >"$folder/load.log" 2>&1 || {
        cat "$folder/load.log" >&2
        return 1
    }
}

echo "Scenario 1: without speculative decoding"
compile --do-sample
serve --override-neuron-config '{"on_device_sampling_config": {"do_sample": true}, "skip_warmup": true}'
load without-speculation
stop_server

echo
echo "Scenario 2: with a draft model, in one call with its target"
"$PYTHON" -m forerun.cli.main compile "$DRAFT" --output "$folder/draft" >"$folder/compile.log" 2>&1 || {
    cat "$folder/compile.log" >&2
    exit 1
}
compile \
    --draft-model-path "$folder/draft" \
    --enable-fused-speculation \
    --speculation-length 7
serve \
    --speculative-max-model-len 8192 \
    --speculative-model "$folder/draft" \
    --num-speculative-tokens 7 \
    --override-neuron-config '{"enable_fused_speculation": true}'
grep "drafted tokens" "$folder/server.log"
load with-speculation
stop_server

echo
"$PYTHON" -m forerun.cli.main bench report "$folder/without-speculation" "$folder/with-speculation" \
    --output "$folder/report"
