#!/usr/bin/env bash
# Prefix caching, end to end: ten questions about one long table, first without the cache, then with it.
#
#   examples/prefix_caching.sh [FOLDER]
#
# Compiles the default model twice into FOLDER (a temporary one if none is given), serves each artifact with the flags
# of a vLLM script, asks the ten questions over HTTP after one to warm up, and prints the average time of both. The
# answers must be the same. Needs bash, curl and the Python that has forerun.
#
# PYTHON (python3), MODEL (default), PORT (8000), ANSWER_TOKENS (16: longest answer; the time is that of the prompt).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
MODEL=${MODEL:-default}
PORT=${PORT:-8000}
ANSWER_TOKENS=${ANSWER_TOKENS:-16}
source "$here/one_server.sh"

# compile ARTIFACT FLAGS...: what both scenarios share, and the flags of one.
compile() {
    local artifact=$1
    shift
    "$PYTHON" -m forerun.cli.inference_demo \
        --model-type llama \
        --task-type causal-lm \
            run \
            --model-path "$MODEL" \
            --compiled-model-path "$artifact" \
            --torch-dtype bfloat16 \
            --start_rank_id 0 \
            --local_ranks_size 1 \
            --tp-degree 1 \
            --batch-size 4 \
            --is-continuous-batching \
            --ctx-batch-size 1 \
            --tkg-batch-size 4 \
            --max-context-length 8192 \
            --seq-len 8192 \
            --on-device-sampling \
            --top-k 1 \
            --do-sample \
            --fused-qkv \
            --sequence-parallel-enabled \
            --qkv-kernel-enabled \
            --attn-kernel-enabled \
            --mlp-kernel-enabled \
            --attn-block-tkg-nki-kernel-enabled \
            --attn-block-tkg-nki-kernel-cache-update \
            --cc-pipeline-tiling-factor 1 \
            --pad-token-id 2 \
            --enable-bucketing \
            --context-encoding-buckets 512 1024 2048 4096 8192 \
            --token-generation-buckets 512 1024 2048 4096 8192 \
            "$@" \
            --compile-only \
            --prompt "What is a lighthouse?" >"$folder/compile.log" 2>&1 || {
        cat "$folder/compile.log" >&2
        return 1
    }
}

# serve ARTIFACT FLAGS...: returns when the server answers.
serve() {
    local log=$folder/server.log
    NEURON_COMPILED_ARTIFACTS=$1 "$PYTHON" -m forerun.entrypoints.openai.api_server \
        --model "$MODEL" \
        --max-num-seqs 4 \
        --max-model-len 8192 \
        --tensor-parallel-size 1 \
        --device neuron \
        --use-v2-block-manager \
        --block-size 32 \
        "${@:2}" \
        --port "$PORT" >"$log" 2>&1 &
    wait_for_server "$log"
}

# body QUESTION: the request as JSON.
body() {
    "$PYTHON" - "$here/data/table.md" "$1" "$MODEL" "$ANSWER_TOKENS" <<'PROGRAM'
import json, sys

table, question, model, tokens = sys.argv[1:]
with open(table, encoding="utf-8") as file:
    text = "You read tables in Markdown and answer questions about them. This is the table:\n\n" + file.read()
text += "\nUse the table to answer.\nQuestion: " + question
print(json.dumps({"model": model, "max_tokens": int(tokens), "messages": [{"role": "user", "content": text}]}))
PROGRAM
}

# ask QUESTION: sets `answer` and `seconds`.
ask() {
    body "$1" >"$folder/request.json"
    seconds=$(curl -sS --fail-with-body -o "$folder/answer.json" -w '%{time_total}' \
        -H 'Content-Type: application/json' --data-binary "@$folder/request.json" "$url/v1/chat/completions") || {
        cat "$folder/answer.json" >&2
        return 1
    }
    answer=$("$PYTHON" -c 'import json, sys
answer = json.load(open(sys.argv[1], encoding="utf-8"))
print(answer["choices"][0]["message"]["content"].replace("\n", " "))' "$folder/answer.json")
}

# measure NAME: one request to warm up, ten with the clock running; answers go to NAME.txt.
measure() {
    local question answer seconds times=() number=0
    mapfile -t questions <"$here/data/questions.txt"
    ask "${questions[0]}"
    echo "Warm-up: $seconds seconds"
    : >"$folder/$1.txt"
    for question in "${questions[@]}"; do
        ask "$question"
        number=$((number + 1))
        times+=("$seconds")
        echo "$number. $question"
        echo "   $answer ($seconds seconds)"
        echo "$answer" >>"$folder/$1.txt"
    done
    average=$("$PYTHON" -c 'import sys
times = [float(word) for word in sys.argv[1:]]
print(f"{sum(times) / len(times):.3f}")' "${times[@]}")
    echo "Average time across ${#times[@]} requests: $average seconds"
}

echo "Scenario 1: without prefix caching"
compile "$folder/plain" --k-cache-transposed
serve "$folder/plain"
measure plain
plain=$average
stop_server

echo
echo "Scenario 2: with prefix caching"
compile "$folder/prefix" \
    --prefix-buckets 512 1024 2048 \
    --enable-block-kv-layout \
    --pa-num-blocks 2048 \
    --pa-block-size 32 \
    --enable-prefix-caching
serve "$folder/prefix" \
    --num-gpu-blocks-override 2048 \
    --enable-prefix-caching \
    --override-neuron-config '{"is_block_kv_layout": true, "is_prefix_caching": true}'
measure prefix
stop_server

echo
if ! cmp -s "$folder/plain.txt" "$folder/prefix.txt"; then
    echo "The answers differ:" >&2
    diff "$folder/plain.txt" "$folder/prefix.txt" >&2 || true
    exit 1
fi
"$PYTHON" -c 'import sys
plain, prefix = map(float, sys.argv[1:])
print(f"The ten answers are the same; with prefix caching they came {plain / prefix:.1f} times as fast.")' \
    "$plain" "$average"
