"""forerun serve knows every flag of vLLM's server by name: implemented, without an effect, or refused."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from forerun.cli.foreign_flags import Foreign
from forerun.cli.parser import Parser
from forerun.cli.serve import add_arguments, model_request, notices, server_settings
from forerun.cli.vllm_flags import NO_EFFECT, REFUSED
from forerun.errors import ConfigError

VLLM_0_7_2 = """
--allow-credentials --allowed-headers --allowed-local-media-path --allowed-methods --allowed-origins --api-key
--block-size --calculate-kv-scales --chat-template --chat-template-content-format --code-revision
--collect-detailed-traces --compilation-config --config-format --cpu-offload-gb --device --disable-async-output-proc
--disable-custom-all-reduce --disable-fastapi-docs --disable-frontend-multiprocessing --disable-log-requests
--disable-log-stats --disable-logprobs-during-spec-decoding --disable-mm-preprocessor-cache --disable-sliding-window
--distributed-executor-backend --download-dir --dtype --enable-auto-tool-choice --enable-chunked-prefill --enable-lora
--enable-lora-bias --enable-prefix-caching --enable-prompt-adapter --enable-prompt-tokens-details --enable-reasoning
--enable-request-id-headers --enable-sleep-mode --enforce-eager --fully-sharded-loras --generation-config
--gpu-memory-utilization --guided-decoding-backend --hf-overrides --host --ignore-patterns --kv-cache-dtype
--kv-transfer-config --limit-mm-per-prompt --load-format --logits-processor-pattern --long-lora-scaling-factors
--lora-dtype --lora-extra-vocab-size --lora-modules --max-cpu-loras --max-log-len --max-logprobs --max-lora-rank
--max-loras --max-model-len --max-num-batched-tokens --max-num-seqs --max-parallel-loading-workers
--max-prompt-adapter-token --max-prompt-adapters --max-seq-len-to-capture --middleware --mm-processor-kwargs --model
--model-impl --model-loader-extra-config --multi-step-stream-outputs --ngram-prompt-lookup-max
--ngram-prompt-lookup-min --num-gpu-blocks-override --num-lookahead-slots --num-scheduler-steps
--num-speculative-tokens --otlp-traces-endpoint --override-generation-config --override-neuron-config
--override-pooler-config --pipeline-parallel-size --port --preemption-mode --prompt-adapters
--qlora-adapter-name-or-path --quantization --ray-workers-use-nsight --reasoning-parser --response-role
--return-tokens-as-token-ids --revision --root-path --rope-scaling --rope-theta --scheduler-delay-factor
--scheduling-policy --seed --served-model-name --skip-tokenizer-init --spec-decoding-acceptance-method
--speculative-disable-by-batch-size --speculative-disable-mqa-scorer --speculative-draft-tensor-parallel-size
--speculative-max-model-len --speculative-model --speculative-model-quantization --ssl-ca-certs --ssl-cert-reqs
--ssl-certfile --ssl-keyfile --swap-space --task --tensor-parallel-size --tokenizer --tokenizer-mode
--tokenizer-pool-extra-config --tokenizer-pool-size --tokenizer-pool-type --tokenizer-revision --tool-call-parser
--tool-parser-plugin --trust-remote-code --typical-acceptance-sampler-posterior-alpha
--typical-acceptance-sampler-posterior-threshold --use-v2-block-manager --uvicorn-log-level --worker-cls -O -pp -q
-spec-draft-tp -tp
"""
VLLM_0_33 = """
--additional-config --aggregate-engine-logging --all2all-backend --allow-credentials --allow-deprecated-quantization
--allowed-headers --allowed-local-media-path --allowed-media-domains --allowed-methods --allowed-origins
--anthropic-disabled-thinking-effort --api-key --async-scheduling --attention-backend --attention-config
--aux-output-config --block-size --chat-template --chat-template-content-format --code-revision --cohere-format
--cohere-is-reasoning-model --collect-detailed-traces --compilation-config --config-format --convert
--cp-kv-cache-interleave-size --cpu-distributed-timeout-seconds --cpu-offload-gb --cpu-offload-params
--cudagraph-capture-sizes --cudagraph-metrics --custom-histogram-buckets --data-parallel-address
--data-parallel-backend --data-parallel-external-lb --data-parallel-hybrid-lb --data-parallel-multi-port-external-lb
--data-parallel-rank --data-parallel-rpc-port --data-parallel-size --data-parallel-size-local
--data-parallel-start-rank --data-parallel-supervisor-port --dbo-decode-token-threshold --dbo-prefill-token-threshold
--dcp-comm-backend --dcp-kv-cache-interleave-size --dcp-q-replicate --decode-context-parallel-size
--default-chat-template-kwargs --default-mm-loras --device-ids --device-memory-utilization --diffusion-config
--disable-access-log-for-endpoints --disable-cascade-attn --disable-chunked-mm-input --disable-custom-all-reduce
--disable-fastapi-docs --disable-hybrid-kv-cache-manager --disable-log-stats --disable-nccl-for-dp-synchronization
--disable-sliding-window --disable-uvicorn-access-log --distributed-executor-backend --distributed-timeout-seconds
--download-dir --dp-supervisor-probe-failure-threshold --dp-supervisor-probe-interval-s
--dp-supervisor-probe-timeout-s --dp-sync-interval --dtype --ec-manager-config --ec-transfer-config
--elastic-ep-max-dp-size --enable-auto-tool-choice --enable-batch-sharded-sampling --enable-chunked-prefill
--enable-cumem-allocator --enable-dbo --enable-elastic-ep --enable-ep-weight-filter --enable-eplb
--enable-expert-parallel --enable-fault-tolerance --enable-flash-late-interaction --enable-flashinfer-autotune
--enable-force-include-usage --enable-hc-sp --enable-layerwise-nvtx-tracing --enable-log-deltas --enable-log-outputs
--enable-log-requests --enable-logging-iteration-details --enable-lora --enable-mamba-cache-stochastic-rounding
--enable-mamba-shared-prefix-checkpoint --enable-mfu-metrics --enable-mixed-moe-lora-format --enable-mm-embeds
--enable-moe-shared-loras --enable-nccl-comm-suspend --enable-offline-docs --enable-per-request-metrics
--enable-prefix-caching --enable-prompt-embeds --enable-prompt-tokens-details --enable-request-id-headers
--enable-return-routed-experts --enable-scale-out --enable-server-load-tracking --enable-shm-tensor-arena
--enable-sleep-mode --enable-ssl-refresh --enable-tokenizer-info-endpoint --enable-tower-connector-lora
--enable-trace-replay --enforce-eager --engram-config --eplb-config --exclude-tools-when-tool-choice-none
--expert-placement-strategy --fail-on-environ-validation --fault-tolerance-config --fingerprint-mode
--fingerprint-value --fully-sharded-loras --gdn-prefill-backend --generation-config --gpu-memory-utilization
--grpc-port --h11-max-header-count --h11-max-incomplete-event-size --hf-config-path --hf-overrides --hf-token --host
--ignore-patterns --interleave-mm-strings --io-processor-plugin --ir-op-priority --jit-monitor-mode
--jit-monitor-verbose --kda-decode-backend --kda-prefill-backend --kernel-config --kv-cache-dtype
--kv-cache-dtype-skip-layers --kv-cache-memory-bytes --kv-cache-metrics --kv-cache-metrics-sample --kv-events-config
--kv-offloading-backend --kv-offloading-size --kv-sharing-fast-prefill --kv-transfer-config --language-model-only
--limit-mm-per-prompt --linear-backend --load-format --log-config-file --log-error-stack --log-level --logging-config
--logits-processors --logprobs-mode --long-prefill-token-threshold --long-prefill-token-threshold-adaptive
--lora-dtype --lora-modules --lora-target-modules --mamba-backend --mamba-block-size --mamba-cache-dtype
--mamba-cache-mode --mamba-cache-philox-rounds --mamba-ssm-cache-dtype --mamba-ssu-algorithm --master-addr
--master-port --max-cpu-loras --max-cudagraph-capture-size --max-log-len --max-logprobs --max-lora-cls-labels
--max-lora-rank --max-loras --max-model-len --max-num-active-seqs --max-num-batched-tokens --max-num-queued-reqs
--max-num-queued-tokens --max-num-scheduled-tokens --max-num-seqs --max-parallel-loading-workers --media-io-kwargs
--middleware --mm-device-do-normalize --mm-encoder-attn-backend --mm-encoder-attn-dtype --mm-encoder-fp8-scale-path
--mm-encoder-fp8-scale-save-margin --mm-encoder-fp8-scale-save-path --mm-encoder-only --mm-encoder-tp-mode
--mm-hasher-algorithm --mm-ipc-gpu-memory-gb --mm-processor-cache-gb --mm-processor-cache-type --mm-processor-device
--mm-processor-kwargs --mm-shm-cache-max-object-size-mb --mm-tensor-ipc --model --model-class-overrides --model-impl
--model-loader-extra-config --moe-backend --monokernel --nnodes --node-rank --num-gpu-blocks-override --numa-bind
--numa-bind-cpus --numa-bind-nodes --offload-backend --offload-group-size --offload-num-in-group --offload-params
--offload-prefetch-step --optimization-level --otlp-traces-endpoint --override-generation-config
--per-request-spec-decode-metrics --performance-mode --pipeline-parallel-size --pooler-config --port
--prefill-context-parallel-size --prefill-schedule-interval --prefix-cache-retention-interval
--prefix-caching-hash-algo --prefix-match-unit --profiler-config --pt-load-map-location --quantization
--quantization-config --ray-workers-use-nsight --reasoning-config --reasoning-effort-map --reasoning-parser
--reasoning-parser-plugin --renderer-num-workers --replayssm-buffer-len --response-role --return-sampling-mask
--return-tokens-as-token-ids --revision --root-path --runner --safetensors-load-strategy
--safetensors-prefetch-block-size --safetensors-prefetch-num-threads --scheduler-cls --scheduler-reserve-full-isl
--scheduling-policy --seed --served-model-name --show-hidden-metrics-for-version --shutdown-timeout
--skip-mm-profiling --skip-tokenizer-init --sleep-mode-backend --sleep-mode-offload-cudagraph
--sleep-preserve-parameter-names --sparse-indexer-topk-backend --spec-method --spec-model --spec-tokens
--specialize-active-lora --speculative-config --sse-keep-alive-interval --ssl-ca-certs --ssl-cert-reqs --ssl-certfile
--ssl-ciphers --ssl-keyfile --stream-interval --structured-outputs-config --swa-bounded-replay --tensor-parallel-size
--tokenizer --tokenizer-mode --tokenizer-revision --tokens-only --tool-call-parser --tool-parser-plugin --tool-server
--tool-strict-level --trust-remote-code --trust-request-chat-template --trust-request-mm-kwargs --ubatch-size --uds
--use-fp64-gumbel --use-replayssm --use-tqdm-on-load --uvicorn-log-level --video-pruning-method --video-pruning-rate
--watchdog-config --watermark --watermark-config --weight-transfer-config --worker-cls --worker-extension-cls -ac -cc
-dc -dcp -dp -dpa -dpb -dpe -dph -dpl -dpm -dpn -dpp -dpr -ep -n -pcp -pp -q -r -sc -tp
"""


def parse(*words: str) -> argparse.Namespace:
    parser = Parser(prog="forerun serve", allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(["--model", "/m", *words])


def words(flag: Foreign, name: str, value: str = "x") -> list[str]:
    return [name] if flag.takes == "nothing" else [name, value]


@pytest.mark.parametrize("names", [VLLM_0_7_2, VLLM_0_33], ids=["0.7.2", "0.33"])
def test_no_flag_of_vllm_is_unknown(names: str) -> None:
    parser = Parser()
    add_arguments(parser)
    assert set(names.split()) - parser._option_string_actions.keys() == set()


def test_what_has_no_effect_says_why_and_changes_nothing() -> None:
    plain = parse()
    for flag in NO_EFFECT:
        for name in flag.names:
            given = parse(*words(flag, name))
            assert notices(given) == [f"{name}: no effect here: {flag.why}"]
            assert (model_request(given), server_settings(given)) == (model_request(plain), server_settings(plain))


def test_what_is_refused_is_named() -> None:
    for flag in REFUSED:
        for name in flag.names:
            typed = words(flag, name, "strange")
            with pytest.raises(ConfigError) as caught:
                model_request(parse(*typed))
            assert str(caught.value) == f"{' '.join(typed)} is not here: {flag.why}"
            for value in flag.neutral:
                assert not notices(parse(name, value)) and model_request(parse(name, value)) == model_request(parse())
            if flag.takes == "nothing" and name.startswith("--"):
                assert model_request(parse(f"--no-{name[2:]}")) == model_request(parse())


@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        (["--nnodes", "2", "--node-rank", "0"], "torchrun"),
        (["--node-rank", "1"], "docs/ranks.md"),
        (["--distributed-executor-backend", "ray"], "`serve run`"),
        (["--data-parallel-rank", "1"], "docs/replicas.md"),
        (["-pp", "2"], "--tensor-parallel-size"),
        (["--numa-bind-nodes", "0", "1"], "numactl"),
    ],
)
def test_who_asks_for_several_processes_is_sent_where_they_are(typed: list[str], instead: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_request(parse(*typed))
    assert instead in str(caught.value)


def test_pages_that_reasons_name_are_there() -> None:
    named = {page for flag in NO_EFFECT + REFUSED for page in re.findall(r"docs/\w+\.md", flag.why)}
    assert named and all((Path(__file__).parents[2] / page).is_file() for page in named)


def test_several_flags_of_one_reason_make_one_line() -> None:
    given = parse("--swap_space", "4", "--gpu-memory-utilization=0.9", "--swap-space", "5", "--enforce-eager")
    assert [line.partition(": no effect here: ")[0] for line in notices(given)] == [
        "--swap-space, --gpu-memory-utilization",
        "--enforce-eager",
    ]


def test_the_model_may_be_named_as_its_own_tokenizer() -> None:
    assert model_request(parse("--tokenizer", "/m")) == model_request(parse())
    with pytest.raises(ConfigError, match="--tokenizer /other is not here"):
        model_request(parse("--tokenizer", "/other"))


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        (["--generation-config", "vllm"], "model_defaults", False),
        (["--override-generation-config", '{"top_k": 3}'], "default_overrides", {"top_k": 3}),
        (["--uvicorn-log-level", "warning"], "log_level", "warning"),
        (["--log-level", "DEBUG"], "log_level", "debug"),
        (["--no-enable-log-requests"], "request_log", False),
        (["--disable_log_requests"], "request_log", False),
        (["--sse-keep-alive-interval", "5"], "sse_keep_alive", 5.0),
        ([], "root_path", ""),
        (["--root-path", "/"], "root_path", ""),
        (["--root-path", "/llm/"], "root_path", "/llm"),
        (["--root_path=a/b"], "root_path", "/a/b"),
        (["--return-tokens-as-token-ids"], "token_ids_as_names", True),
        (["--enable-force-include-usage"], "force_usage", True),
        (["--enable-per-request-metrics"], "request_metrics", True),
    ],
)
def test_settings_of_the_server(typed: list[str], name: str, value: object) -> None:
    assert getattr(server_settings(parse(*typed)), name) == value


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--dtype", "fp8"], "--dtype fp8 is not here"),
        (["--dtype", "float64"], "--dtype float64 is not here"),
        (["--shutdown-timeout", "nan"], "--shutdown-timeout nan must be a number of seconds"),
        (["--shutdown-timeout", "-1"], "--shutdown-timeout -1 must be a number of seconds"),
        (["--max-body-bytes", "0"], "--max-body-bytes 0 must be at least 1"),
        (["--max-queued-requests", "-1"], "--max-queued-requests -1 must be 0 or more"),
        (["--generation-config", "/folder"], "--generation-config /folder is not here"),
        (["--override-generation-config", "[]"], "--override-generation-config: a JSON object was expected"),
        (["--override-generation-config", '{"max_new_tokens": 3}'], "max_new_tokens is not here: use temperature"),
        (["--override-generation-config", '{"temperature": -1}'], "--override-generation-config: temperature"),
        (["--override-generation-config", '{"temperature": "hot"}'], "--override-generation-config: "),
    ],
)
def test_values_that_are_not_to_be_had(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_request(parse(*typed))
        server_settings(parse(*typed))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["float16", "half"])
def test_half_precision_is_auto_with_a_line(name: str) -> None:
    assert model_request(parse("--dtype", name)) == model_request(parse())
    (line,) = notices(parse("--dtype", name))
    assert line == f"--dtype {name}: weights are stored as with auto; float32 keeps float16 weights exactly"
    assert notices(parse("--dtype", "bfloat16")) == []


def test_dtype_float_is_float32() -> None:
    assert model_request(parse("--dtype", "float")).settings == {"torch_dtype": "float32"}
