"""The serve flags of vLLM that are not implemented here, of version 0.7.2 (that of many tutorials) and of 0.33."""

from __future__ import annotations

from forerun.cli.foreign_flags import Foreign, no_effect, refused

_WEIGHTS = "weights are mapped from the artifact as they are"
_HOSTS = "torchrun starts the processes of one model, on several hosts too (docs/ranks.md)"
_REPLICAS = "--data-parallel-size is for one machine; `serve run` starts replicas on several (docs/replicas.md)"
_MATRICES = "ranks share out matrices and heads alone; use --tensor-parallel-size"
_GRAPHS = "programs are compiled ahead into the artifact"
_BLOCKS = "memory of the KV cache is set by --num-gpu-blocks-override"
_SPECULATION = "a draft changes no token; how many are drafted is chosen step by step"
_VERSION = "is not in this version"

NO_EFFECT: tuple[Foreign, ...] = (
    *no_effect(
        _SPECULATION,
        switches="--speculative-disable-mqa-scorer --disable-logprobs-during-spec-decoding "
        "--per-request-spec-decode-metrics",
        values="--speculative-disable-by-batch-size --spec-decoding-acceptance-method "
        "--typical-acceptance-sampler-posterior-threshold "
        "--typical-acceptance-sampler-posterior-alpha --num-lookahead-slots",
    ),
    *no_effect("the draft model goes as far as its target", values="--speculative-max-model-len"),
    *no_effect(
        "a draft model runs with all threads of its target",
        values="--speculative-draft-tensor-parallel-size,-spec-draft-tp",
    ),
    *no_effect("the method follows from --speculative-model or --speculative-config", values="--spec-method"),
    *no_effect(
        _WEIGHTS,
        switches="--use-tqdm-on-load --allow-deprecated-quantization",
        values="--download-dir --model-loader-extra-config --max-parallel-loading-workers --pt-load-map-location "
        "--ignore-patterns --safetensors-load-strategy --safetensors-prefetch-block-size "
        "--safetensors-prefetch-num-threads",
    ),
    *no_effect(
        "tools and thoughts are read wherever there are some; see --tool-call-parser, --reasoning-parser",
        switches="--enable-auto-tool-choice --enable-reasoning",
    ),
    *no_effect("code that comes with a model is never run", switches="--trust-remote-code"),
    *no_effect(
        _GRAPHS,
        switches="--enforce-eager --cudagraph-metrics --monokernel --enable-flashinfer-autotune --jit-monitor-verbose",
        values="--max-seq-len-to-capture --compilation-config,-O,-cc --optimization-level --performance-mode "
        "--max-cudagraph-capture-size --jit-monitor-mode --kernel-config --ir-op-priority --ubatch-size",
        lists="--cudagraph-capture-sizes",
    ),
    *no_effect(
        "there is one kernel per operator and instruction set; see --isa",
        switches="--disable-cascade-attn --kv-sharing-fast-prefill --disable-custom-all-reduce --use-fp64-gumbel",
        values="--attention-backend --attention-config,-ac --linear-backend --moe-backend --mamba-backend "
        "--gdn-prefill-backend --kda-prefill-backend --kda-decode-backend --sparse-indexer-topk-backend",
    ),
    *no_effect(
        _BLOCKS,
        switches="--calculate-kv-scales --enable-cumem-allocator --disable-hybrid-kv-cache-manager",
        values="--gpu-memory-utilization,--device-memory-utilization --swap-space --cpu-offload-gb "
        "--kv-cache-memory-bytes --watermark --watermark-config",
    ),
    *no_effect("blocks of the KV cache are always managed like that", switches="--use-v2-block-manager"),
    *no_effect("prompts are always cut into chunks", switches="--enable-chunked-prefill"),
    *no_effect("one library compiles every form of an answer", values="--guided-decoding-backend"),
    *no_effect(
        "each step is scheduled anew, and tokens are sent as they come",
        switches="--multi-step-stream-outputs --disable-async-output-proc --async-scheduling "
        "--scheduler-reserve-full-isl --long-prefill-token-threshold-adaptive",
        values="--num-scheduler-steps --scheduler-delay-factor --preemption-mode --stream-interval "
        "--long-prefill-token-threshold "
        "--prefill-schedule-interval --max-num-scheduled-tokens",
    ),
    *no_effect(
        "prefixes are found by the tokens themselves, and the oldest go first",
        values="--prefix-caching-hash-algo --prefix-cache-retention-interval --prefix-match-unit",
    ),
    *no_effect(
        "texts are tokenised beside the event loop",
        values="--tokenizer-pool-size --tokenizer-pool-type --tokenizer-pool-extra-config --renderer-num-workers",
    ),
    *no_effect(
        "/metrics always counts everything",
        switches="--disable-log-stats --kv-cache-metrics --enable-mfu-metrics --enable-logging-iteration-details "
        "--aggregate-engine-logging --enable-server-load-tracking",
        values="--kv-cache-metrics-sample --show-hidden-metrics-for-version",
    ),
    *no_effect(
        "there is no such log; --disable-log-requests ends the request log",
        switches="--disable-uvicorn-access-log",
        values="--disable-access-log-for-endpoints",
    ),
    *no_effect(
        "texts of prompts and answers are never logged",
        switches="--enable-log-deltas --log-error-stack",
        values="--max-log-len",
    ),
    *no_effect("answers always carry it", switches="--enable-prompt-tokens-details --enable-request-id-headers"),
    *no_effect(
        "there are no documentation pages, only /openapi.json",
        switches="--disable-fastapi-docs --enable-offline-docs",
    ),
    *no_effect("the server and its engine are one process", switches="--disable-frontend-multiprocessing"),
    *no_effect(
        "threads keep to their cores, and processes of one host to memory nodes, by themselves", switches="--numa-bind"
    ),
    *no_effect("headers may have 16 KiB", values="--h11-max-incomplete-event-size --h11-max-header-count"),
    *no_effect(
        "models are of text alone",
        switches="--language-model-only --skip-mm-profiling --disable-mm-preprocessor-cache --disable-chunked-mm-input "
        "--interleave-mm-strings --mm-encoder-only --enable-mm-processor-stats --mm-device-do-normalize "
        "--enable-shm-tensor-arena --trust-request-mm-kwargs",
        values="--limit-mm-per-prompt --mm-processor-kwargs --media-io-kwargs --mm-processor-cache-gb "
        "--mm-processor-cache-type --mm-shm-cache-max-object-size-mb --mm-encoder-tp-mode --mm-encoder-attn-backend "
        "--mm-encoder-attn-dtype --mm-hasher-algorithm --mm-processor-device --mm-ipc-gpu-memory-gb --mm-tensor-ipc "
        "--mm-encoder-fp8-scale-path --mm-encoder-fp8-scale-save-path --mm-encoder-fp8-scale-save-margin "
        "--video-pruning-rate --video-pruning-method",
    ),
    *no_effect("nothing here fails silently", switches="--fail-on-environ-validation"),
    *no_effect("hub models are read from the local cache", values="--hf-token"),
)

REFUSED: tuple[Foreign, ...] = (
    *refused(_HOSTS, switches="--headless", values="--master-addr --master-port"),
    *refused(_HOSTS, values="--nnodes,-n", neutral=("1",)),
    *refused(_HOSTS, values="--node-rank,-r", neutral=("0",)),
    *refused(
        "a rank in another process is waited for as $FORERUN_RANK_TIMEOUT says (docs/ranks.md)",
        values="--distributed-timeout-seconds --cpu-distributed-timeout-seconds",
    ),
    *refused(
        "processes of several hosts exchange through gloo (docs/ranks.md)",
        switches="--disable-nccl-for-dp-synchronization --enable-nccl-comm-suspend",
    ),
    *refused(
        "torchrun starts ranks in several processes (docs/ranks.md), and `serve run` replicas on Ray "
        "(docs/replicas.md)",
        values="--distributed-executor-backend",
        neutral=("mp", "uni"),
    ),
    *refused(
        _REPLICAS,
        switches="--data-parallel-hybrid-lb,-dph --data-parallel-external-lb,-dpe "
        "--data-parallel-multi-port-external-lb,-dpm",
        values="--data-parallel-rank,-dpn --data-parallel-start-rank,-dpr --data-parallel-address,-dpa "
        "--data-parallel-rpc-port,-dpp --dp-sync-interval --data-parallel-supervisor-port "
        "--dp-supervisor-probe-interval-s --dp-supervisor-probe-timeout-s --dp-supervisor-probe-failure-threshold",
    ),
    *refused(_REPLICAS, values="--data-parallel-size-local,-dpl", neutral=("1",)),
    *refused(_REPLICAS, values="--data-parallel-backend,-dpb", neutral=("mp",)),
    *refused("one front serves all replicas", values="--api-server-count,-asc", neutral=("1",)),
    *refused(
        "replicas that fail are started again, and Ray Serve adds some under load (docs/replicas.md)",
        switches="--enable-scale-out --enable-fault-tolerance",
        values="--fault-tolerance-config --watchdog-config",
    ),
    *refused(
        "start the server with taskset or numactl; it keeps to the cores that it may use",
        lists="--numa-bind-nodes --numa-bind-cpus --device-ids",
    ),
    *refused(
        _MATRICES,
        values="--pipeline-parallel-size,-pp --decode-context-parallel-size,-dcp --prefill-context-parallel-size,-pcp",
        neutral=("1",),
    ),
    *refused(
        _MATRICES,
        switches="--dcp-q-replicate --enable-batch-sharded-sampling --enable-hc-sp",
        values="--dcp-comm-backend --dcp-kv-cache-interleave-size --cp-kv-cache-interleave-size",
    ),
    *refused(
        "models of experts are not in this version",
        switches="--enable-expert-parallel,-ep --enable-eplb --enable-dbo --enable-elastic-ep "
        "--enable-ep-weight-filter",
        values="--all2all-backend --expert-placement-strategy --eplb-config --dbo-decode-token-threshold "
        "--dbo-prefill-token-threshold --elastic-ep-max-dp-size",
    ),
    *refused(
        "the KV cache stays in the memory of this process",
        values="--kv-transfer-config --kv-events-config --kv-offloading-size --kv-offloading-backend "
        "--cpu-offload-params --offload-backend --offload-group-size --offload-num-in-group --offload-params "
        "--offload-prefetch-step --ec-transfer-config --ec-manager-config --weight-transfer-config --engram-config",
    ),
    *refused(
        f"LoRA {_VERSION}; merge the adapter into the checkpoint",
        switches="--enable-lora --enable-lora-bias --fully-sharded-loras --enable-mixed-moe-lora-format "
        "--enable-moe-shared-loras --enable-tower-connector-lora --specialize-active-lora",
        values="--max-loras --max-lora-rank --lora-extra-vocab-size --lora-dtype --long-lora-scaling-factors "
        "--max-cpu-loras --qlora-adapter-name-or-path --default-mm-loras --max-lora-cls-labels",
        lists="--lora-modules --lora-target-modules",
    ),
    *refused(
        f"a prompt adapter {_VERSION}",
        switches="--enable-prompt-adapter --enable-prompt-embeds",
        values="--max-prompt-adapters --max-prompt-adapter-token",
        lists="--prompt-adapters",
    ),
    *refused(
        "the parsers of tools are those of --tool-call-parser, and no tools run in the server",
        values="--tool-parser-plugin --tool-server --tool-strict-level",
    ),
    *refused(
        "the parsers of reasoning are those of --reasoning-parser",
        switches="--cohere-is-reasoning-model",
        values="--reasoning-parser-plugin --reasoning-config --reasoning-effort-map "
        "--anthropic-disabled-thinking-effort --cohere-format",
    ),
    *refused(
        "one library compiles every form of an answer, and its settings come with the request (structured_outputs)",
        values="--structured-outputs-config",
        neutral=(
            '{"backend": "auto"}',
            '{"backend": "xgrammar"}',
            '{"backend": "guidance"}',
            '{"backend": "outlines"}',
        ),
    ),
    *refused(
        "code of others is not loaded into the server",
        values="--middleware --logits-processor-pattern --worker-cls --worker-extension-cls --scheduler-cls "
        "--io-processor-plugin --model-class-overrides --additional-config",
        lists="--logits-processors",
        neutral=("auto",),
    ),
    *refused("give the flags themselves", values="--config"),
    *refused("the server speaks HTTP alone", switches="--grpc", values="--grpc-port"),
    *refused(
        "let a proxy in front of the server end TLS",
        switches="--enable-ssl-refresh",
        values="--ssl-keyfile --ssl-certfile --ssl-ca-certs --ssl-cert-reqs --ssl-ciphers",
        neutral=("0",),
    ),
    *refused(
        "put chat_template.jinja into the model's folder",
        switches="--trust-request-chat-template",
        values="--chat-template --default-chat-template-kwargs",
    ),
    *refused(
        "templates get the text of a message as one string",
        values="--chat-template-content-format",
        neutral=("auto", "string"),
    ),
    *refused("answers have the role of the template", values="--response-role", neutral=("assistant",)),
    *refused(
        "give it in each request",
        switches="--return-sampling-mask --enable-trace-replay",
    ),
    *refused(
        "the tokenizer is the one of the model's folder",
        switches="--skip-tokenizer-init --tokens-only",
        values="--tokenizer --tokenizer-revision",
        neutral=("main",),
    ),
    *refused("tokenizer.json decides", values="--tokenizer-mode", neutral=("auto", "hf", "slow")),
    *refused("give --model the folder of that revision", values="--revision --code-revision", neutral=("main",)),
    *refused(
        "the files of the model decide; real weights are needed",
        values="--load-format",
        neutral=("auto", "safetensors", "gguf", "hf"),
    ),
    *refused("config.json of the model decides", values="--config-format", neutral=("auto", "hf")),
    *refused(
        "change config.json of the model",
        switches="--disable-sliding-window",
        values="--hf-overrides --hf-config-path --rope-scaling --rope-theta --quantization-config",
    ),
    *refused("there is one implementation", values="--model-impl", neutral=("auto", "vllm")),
    *refused("this server generates", values="--task --runner --convert", neutral=("auto", "generate", "none")),
    *refused("this server generates", values="--override-pooler-config --pooler-config --diffusion-config,-dc"),
    *refused(
        "the models that need it are not in this version",
        switches="--enable-mm-embeds --enable-mamba-cache-stochastic-rounding --enable-mamba-shared-prefix-checkpoint "
        "--enable-return-routed-experts --use-replayssm --swa-bounded-replay --enable-flash-late-interaction",
        values="--allowed-local-media-path --mamba-cache-dtype --mamba-ssm-cache-dtype --mamba-block-size "
        "--mamba-cache-mode --mamba-cache-philox-rounds --mamba-ssu-algorithm --replayssm-buffer-len",
        lists="--allowed-media-domains",
        neutral=("auto", "none"),
    ),
    *refused("one type for all layers", lists="--kv-cache-dtype-skip-layers"),
    *refused(
        "log-probabilities are taken before temperature and cuts", values="--logprobs-mode", neutral=("raw_logprobs",)
    ),
    *refused(
        "traces are not sent",
        switches="--enable-layerwise-nvtx-tracing --ray-workers-use-nsight",
        values="--otlp-traces-endpoint --profiler-config",
        lists="--collect-detailed-traces",
    ),
    *refused(
        "the model stays loaded",
        switches="--enable-sleep-mode --sleep-mode-offload-cudagraph",
        values="--sleep-mode-backend",
        lists="--sleep-preserve-parameter-names",
    ),
    *refused("buckets of /metrics are fixed", values="--custom-histogram-buckets"),
    *refused("texts are never logged", switches="--enable-log-outputs"),
    *refused("the log goes to stderr and the request log to stdout", values="--log-config-file --logging-config"),
    *refused(
        "answers have no such field",
        switches="--aux-output-config",
        values="--fingerprint-mode --fingerprint-value",
        neutral=("none",),
    ),
    *refused(
        "the queue is bounded by requests: --max-queued-requests",
        values="--max-num-queued-tokens --max-num-active-seqs",
    ),
)
FOREIGN = NO_EFFECT + REFUSED
