"""The flags of ``forerun serve``: vLLM's names, and what becomes of each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from forerun.cli.draft_flags import add_draft_flags
from forerun.cli.foreign_flags import add_foreign_flags
from forerun.cli.speculation_flag import add_speculation_flag
from forerun.cli.vllm_flags import NO_EFFECT, REFUSED

LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")


class OneModel(argparse.Action):
    """Stores the model, which may be given alone or with --model but not in two ways that differ."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Exits with one line when another model was given before."""
        before = getattr(namespace, "model_given", None)
        if before is not None and before != values:
            parser.error(f"two models are given, {before} and {values}: leave one out")
        namespace.model = namespace.model_given = values


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag, in groups; the model may also stand alone, as in ``forerun serve MODEL``."""
    parser.add_argument(
        "model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", action=OneModel, help="the same as --model"
    )
    _add_model(parser.add_argument_group("model"))
    _add_engine(parser.add_argument_group("engine"))
    speculation = parser.add_argument_group("speculation")
    add_speculation_flag(speculation, "-sc")
    add_draft_flags(speculation)
    _add_server(parser.add_argument_group("server"))
    _add_tools(parser.add_argument_group("tools and reasoning"))
    _add_log(parser.add_argument_group("log"))
    add_foreign_flags(parser.add_argument_group("flags of vLLM without an effect here"), NO_EFFECT)
    add_foreign_flags(parser.add_argument_group("flags of vLLM that are refused"), REFUSED)


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        default="default",
        metavar="PATH",
        action=OneModel,
        help="checkpoint folder, .gguf file, hub id, artifact folder, or 'default'",
    )
    group.add_argument(
        "--served-model-name",
        nargs="+",
        action="append",
        metavar="NAME",
        help="names that requests may use (default: --model as it is)",
    )
    group.add_argument("--device", default="auto", help="cpu; neuron and auto mean the same here")
    group.add_argument(
        "--tensor-parallel-size",
        "--tp-degree",
        "-tp",
        type=int,
        metavar="N",
        help="ranks; any number gives the same tokens",
    )
    group.add_argument(
        "--data-parallel-size",
        "-dp",
        type=int,
        default=1,
        metavar="N",
        help="equal servers behind one address, which share the cores and the memory; other flags are of each of them",
    )
    group.add_argument(
        "--dtype",
        default="auto",
        metavar="TYPE",
        help="unquantised weights: auto (closest to the checkpoint's bits), bfloat16, float32",
    )
    group.add_argument("--quantization", "-q", metavar="FORM", help="weights: int8 or int4 in groups of 32")
    group.add_argument("--kv-cache-dtype", default="auto", metavar="TYPE", help="auto, bfloat16 or int8")
    group.add_argument(
        "--override-neuron-config",
        metavar="JSON",
        help="settings of the artifact by their names in neuron_config.json; may be partial",
    )
    group.add_argument(
        "--recompile",
        action="store_true",
        help="compile even if there is an artifact (into $NEURON_COMPILED_ARTIFACTS if set)",
    )
    group.add_argument(
        "--generation-config",
        default="auto",
        metavar="WHICH",
        help="defaults of sampling: auto (generation_config.json of the model) or vllm (none of the model's)",
    )
    group.add_argument(
        "--override-generation-config", metavar="JSON", help='defaults over these, such as {"temperature": 0.5}'
    )
    group.add_argument("--threads", type=int, default=0, help="0: one per usable core")
    group.add_argument("--isa", default="", help="force a lower instruction set (see forerun info)")


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--max-num-seqs", type=int, metavar="N", help="sequences that run together")
    group.add_argument("--max-model-len", type=int, metavar="N", help="longest sequence, prompt and answer, in tokens")
    group.add_argument(
        "--max-num-batched-tokens",
        type=int,
        default=None,
        metavar="N",
        help="rows of one step, prompts and answers together (default 512 or --max-num-seqs)",
    )
    group.add_argument("--block-size", type=int, metavar="N", help="tokens per KV block: 16, 32, 64 or 128")
    group.add_argument("--num-gpu-blocks-override", type=int, metavar="N", help="KV blocks (default: from free memory)")
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="share the KV of equal prompt beginnings (default: on; an artifact that was given decides itself)",
    )
    group.add_argument(
        "--max-queued-requests",
        "--max-num-queued-reqs",
        type=int,
        default=1024,
        metavar="N",
        help="requests that may wait; beyond that, HTTP 429",
    )
    group.add_argument(
        "--scheduling-policy",
        choices=("fcfs", "priority"),
        default="fcfs",
        help="who goes first: fcfs (who came first) or priority (the least number)",
    )
    group.add_argument(
        "--seed", type=int, default=None, help="makes requests without a seed repeat from start to start"
    )
    group.add_argument(
        "--max-logprobs",
        type=int,
        default=20,
        metavar="N",
        help="cap on logprobs, top_logprobs and prompt_logprobs; -1: none",
    )


def _add_server(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for every interface")
    group.add_argument("--port", type=int, default=8000, help="0: a free one")
    group.add_argument("--uds", metavar="PATH", help="a Unix socket instead of host and port")
    group.add_argument(
        "--api-key",
        nargs="+",
        action="append",
        metavar="KEY",
        help="one or more keys, one of which every request must bring (or $VLLM_API_KEY)",
    )
    group.add_argument("--admin-api-key", metavar="KEY", help="opens /reset_prefix_cache")
    group.add_argument(
        "--shutdown-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long requests may go on after SIGTERM",
    )
    group.add_argument("--max-body-bytes", type=int, default=1 << 20, metavar="N", help="largest request body")
    group.add_argument(
        "--strict-requests",
        action="store_true",
        help="refuse unknown names in requests (default: ignore them, with a line in the log and a response header)",
    )
    group.add_argument(
        "--sse-keep-alive",
        "--sse-keep-alive-interval",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="send a comment in streams after so long without news, for proxies that cut idle connections (0: never)",
    )
    group.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="where a proxy puts the server, such as /llm; routes are there too",
    )
    group.add_argument("--no-ui", action="store_true", help="no page for browsers at /")
    group.add_argument(
        "--return-tokens-as-token-ids",
        action="store_true",
        help="log-probabilities name tokens token_id:N in every answer that does not say otherwise",
    )
    group.add_argument(
        "--enable-force-include-usage",
        action="store_true",
        help="every chunk of every stream has the usage so far, and a last one all of it",
    )
    group.add_argument(
        "--enable-per-request-metrics",
        action="store_true",
        help="answers to one prompt with n = 1 have their times under 'metrics' (streams: beside the usage)",
    )
    group.add_argument("--enable-tokenizer-info-endpoint", action="store_true", help="adds GET /tokenizer_info")
    _add_cors(group)


def _add_cors(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--allowed-origins",
        default="[]",
        metavar="JSON",
        help="""web pages that may use the server from a browser, such as '["http://localhost:3000"]' or '["*"]'""",
    )
    for what in ("methods", "headers"):
        group.add_argument(
            f"--allowed-{what}", default='["*"]', metavar="JSON", help=f"{what} that these pages may use (default: all)"
        )
    group.add_argument(
        "--allow-credentials", action="store_true", help="these pages may send cookies and the browser's logins"
    )


def _add_tools(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tool-call-parser",
        metavar="NAME",
        help="how the model writes calls: hermes, qwen3_coder, llama3_json, llama4_json, pythonic, llama4_pythonic or "
        "mistral (default: as its chat template shows)",
    )
    group.add_argument(
        "--reasoning-parser",
        metavar="NAME",
        help="how the model writes thoughts: qwen3, deepseek_r1, or none (default: as its chat template shows)",
    )
    group.add_argument(
        "--exclude-tools-when-tool-choice-none",
        action="store_true",
        help="where tool_choice is none, the chat template gets no tools",
    )


def _add_log(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--enable-log-requests",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a line per request on stdout: tokens, TTFT, tokens/s (default: on)",
    )
    group.add_argument(
        "--request-log-format",
        choices=("json", "text"),
        help="JSON, or text for people (default: text in a terminal, else json)",
    )
    group.add_argument("--disable-log-requests", action="store_true", help="the same as --no-enable-log-requests")
    group.add_argument(
        "--uvicorn-log-level",
        "--log-level",
        type=str.lower,
        choices=LOG_LEVELS,
        default="info",
        help="least level of the server's log on stderr",
    )
