"""``forerun serve``: an OpenAI-compatible server, with vLLM's flag names."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun.cli.draft_flags import draft_notices, drafts_of
from forerun.cli.foreign_flags import foreign_notices, refuse_foreign
from forerun.cli.model_flags import crowding
from forerun.cli.serve_flags import add_flags
from forerun.errors import ArtifactError, ConfigError
from forerun.json_text import JsonReader
from forerun.progress import base_name, progress

if TYPE_CHECKING:
    from forerun.compiler.compile import Progress
    from forerun.engine import EngineSettings
    from forerun.opening import ModelRequest, OpenedModel
    from forerun.server.address import Address
    from forerun.server.server_settings import Cors, ServerSettings

    Open = Callable[[ModelRequest, Callable[[str], None], Progress], OpenedModel]

DEFAULT_ROWS = 512
ARTIFACTS_VARIABLE = "NEURON_COMPILED_ARTIFACTS"
KEY_VARIABLE = "VLLM_API_KEY"
_NAMES = {
    "max_num_seqs": "--max-num-seqs",
    "batch_size": "--max-num-seqs",
    "max_model_len": "--max-model-len",
    "max_length": "--max-model-len",
    "seq_len": "--max-model-len",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "pa_block_size": "--block-size",
    "pa_num_blocks": "--num-gpu-blocks-override",
    "torch_dtype": "--dtype",
    "quantized": "--quantization",
    "quantization_dtype": "--quantization",
    "kv_cache_quant": "--kv-cache-dtype",
    "tp_degree": "--tensor-parallel-size",
}
_DTYPES = {
    "auto": None,
    "bfloat16": "bfloat16",
    "float32": "float32",
    "float": "float32",
    "float16": None,
    "half": None,
}
_KV_DTYPES = {"auto": None, "bfloat16": False, "int8": True}
_QUANTIZATIONS = {"int8": "int8", "int4": "int4", "neuron_quant": "int8"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_flags(parser)


def run(args: argparse.Namespace, open_model: Open | None = None, replica: Sequence[str] | None = None) -> int:
    """Open the model, then serve until a signal. Returns the exit status; raises ForerunError for user mistakes.

    ``open_model`` replaces ``forerun.opening.open_model``, and then ``replica`` is the command of a replica, which does
    so too.
    """
    request, server = model_request(args), server_settings(args)
    for line in notices(args):
        say(line)
    if args.data_parallel_size != 1:
        from forerun.cli.serve_replicas import run_front

        return run_front(args, request, server, replica)
    if open_model is None:
        from forerun import opening

        open_model = opening.open_model
    from forerun.opening.ranks import follows
    from forerun.server.address import bound

    if follows():  # and never comes back
        open_model(request, say, lambda what, done, total: None)
    with bound(server) as address:
        with progress(f"Compiling {base_name(args.model)}") as tell:
            model = open_model(request, say, tell)
        return serve(model, address, args.seed)


def serve(model: OpenedModel, address: Address, seed: int | None, notice: Callable[[], float] | None = None) -> int:
    """Serve an opened model at ``address`` until a signal. ``notice``: see ``forerun.server.run.run``; a server with it
    stands behind a front, which tells people what there is to tell."""
    from contextlib import closing

    from forerun.server.banner import banner, package_version
    from forerun.server.run import run as run_server
    from forerun.server.service import Service

    with closing(model.executor):
        service = Service(model, address.settings, seed=seed, version=package_version())
        with closing(service.engine), closing(service.text):
            service.text.start()
            service.forms.start()
            if notice is None:
                say(banner(service))
            return run_server(service, address, notice)


def model_request(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> ModelRequest:
    """Which model, how it is stored, how it runs. Raises ConfigError or ArtifactError."""
    from forerun.opening import ModelRequest
    from forerun.runtime.loader import RunSettings

    if args.device not in ("neuron", "cpu", "auto"):
        raise ConfigError(f"--device {args.device} is not here: use cpu (neuron and auto mean the same)")
    if args.threads < 0:
        raise ConfigError(f"--threads {args.threads} must not be negative")
    refuse_foreign(args.foreign, args.model)
    override = _override(args)
    settings = {**_settings(args), **override}
    return ModelRequest(
        args.model,
        settings,
        engine_settings(args, settings.pop("is_prefix_caching", args.enable_prefix_caching)),
        RunSettings.of(vars(args), max_rows=DEFAULT_ROWS, populate=True),
        artifact=_artifacts_folder(args, environ),
        compile="always" if args.recompile else "missing",
        names={name: flag for name, flag in _NAMES.items() if name not in override},
    )


def _artifacts_folder(args: argparse.Namespace, environ: Mapping[str, str]) -> Path | None:
    """The folder that the environment names; without --recompile there must be an artifact in it."""
    from forerun.opening.cache import is_artifact

    named = environ.get(ARTIFACTS_VARIABLE)
    if named is not None and not args.recompile and not is_artifact(named):
        raise ArtifactError(
            f"{ARTIFACTS_VARIABLE}={named}: there is no artifact; compile one into it, or add --recompile to do it now"
        )
    return None if named is None else Path(named)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Flags that are settings of the artifact, under NeuronConfig's names."""
    settings: dict[str, Any] = {}
    if args.tensor_parallel_size is not None:
        settings["tp_degree"] = args.tensor_parallel_size
    if args.block_size is not None:
        settings["pa_block_size"] = args.block_size
    if args.num_gpu_blocks_override is not None:
        settings["pa_num_blocks"] = args.num_gpu_blocks_override
    if args.dtype not in _DTYPES:
        raise ConfigError(f"--dtype {args.dtype} is not here: use auto, bfloat16 or float32")
    if _DTYPES[args.dtype] is not None:
        settings["torch_dtype"] = _DTYPES[args.dtype]
    if args.kv_cache_dtype not in _KV_DTYPES:
        raise ConfigError(f"--kv-cache-dtype {args.kv_cache_dtype} is not here: use {', '.join(_KV_DTYPES)}")
    if _KV_DTYPES[args.kv_cache_dtype] is not None:
        settings["kv_cache_quant"] = _KV_DTYPES[args.kv_cache_dtype]
    if args.quantization is not None:
        if args.quantization not in _QUANTIZATIONS:
            raise ConfigError(f"--quantization {args.quantization} is not here: use int8 or int4")
        settings |= {"quantized": True, "quantization_dtype": _QUANTIZATIONS[args.quantization]}
    return settings


def _override(args: argparse.Namespace) -> dict[str, Any]:
    return _json_object(args.override_neuron_config, "--override-neuron-config", '{"is_prefix_caching": true}')


def _json_object(text: str | None, flag: str, example: str = '{"temperature": 0.5}') -> dict[str, Any]:
    """The JSON object that a flag brings; empty without the flag."""
    if text is None:
        return {}
    return JsonReader(ConfigError, f"give a JSON object such as {example}").parse_object(text, flag)


def _model_defaults(which: str) -> bool:
    if which not in ("auto", "vllm"):
        raise ConfigError(
            f"--generation-config {which} is not here: auto takes the model's own, "
            "and --override-generation-config goes over it"
        )
    return which == "auto"


def engine_settings(args: argparse.Namespace, prefix_caching: bool | None = None) -> EngineSettings:
    """What the engine does at once. Raises ConfigError."""
    from forerun.engine import EngineSettings

    if args.max_queued_requests < 0:
        raise ConfigError(f"--max-queued-requests {args.max_queued_requests} must be 0 or more")
    for name in ("max_num_seqs", "max_model_len", "max_num_batched_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    return EngineSettings(
        max_num_batched_tokens=args.max_num_batched_tokens,
        max_num_seqs=args.max_num_seqs,
        max_model_len=args.max_model_len,
        max_queued_requests=args.max_queued_requests,
        policy=args.scheduling_policy,
        enable_prefix_caching=prefix_caching,
        speculative_config=drafts_of(args, _override(args)),
    )


def server_settings(args: argparse.Namespace) -> ServerSettings:
    """Address, keys, caps, time-outs."""
    from forerun.server.sampling_params import SamplingDefaults, overridden
    from forerun.server.server_settings import NO_CAP, Caps, ServerSettings, Timeouts

    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port {args.port} is no port: use 0 to 65535")
    if not 0 <= args.shutdown_timeout < float("inf"):
        raise ConfigError(f"--shutdown-timeout {args.shutdown_timeout:g} must be a number of seconds, 0 or more")
    if args.max_body_bytes < 1:
        raise ConfigError(f"--max-body-bytes {args.max_body_bytes} must be at least 1")
    if args.max_logprobs < -1:
        raise ConfigError(f"--max-logprobs {args.max_logprobs} must be 0 or more, or -1 for no cap")
    if not 0 <= args.sse_keep_alive < float("inf"):
        raise ConfigError(f"--sse-keep-alive {args.sse_keep_alive:g} must be a number of seconds, or 0 for never")
    overrides = _json_object(args.override_generation_config, "--override-generation-config")
    overridden(SamplingDefaults(), overrides)  # said before the model is loaded
    keys = [key for group in args.api_key or [] for key in group]
    if not keys and os.environ.get(KEY_VARIABLE):
        keys = [os.environ[KEY_VARIABLE]]
    names = tuple(name for group in args.served_model_name or [] for name in group) or (args.model,)
    return ServerSettings(
        served_names=names,
        host=args.host,
        port=args.port,
        uds=args.uds,
        api_keys=tuple(keys),
        admin_api_key=args.admin_api_key,
        caps=Caps(logprobs=NO_CAP if args.max_logprobs == -1 else args.max_logprobs, body_bytes=args.max_body_bytes),
        timeouts=Timeouts(shutdown=args.shutdown_timeout),
        request_log=args.enable_log_requests and not args.disable_log_requests,
        request_log_form=args.request_log_format or ("text" if sys.stdout.isatty() else "json"),
        log_level=args.uvicorn_log_level,
        model_defaults=_model_defaults(args.generation_config),
        default_overrides=overrides,
        strict_requests=args.strict_requests,
        sse_keep_alive=args.sse_keep_alive,
        tokenizer_info=args.enable_tokenizer_info_endpoint,
        root_path="/" + args.root_path.strip("/") if args.root_path.strip("/") else "",
        page=not args.no_ui,
        token_ids_as_names=args.return_tokens_as_token_ids,
        force_usage=args.enable_force_include_usage,
        request_metrics=args.enable_per_request_metrics,
        tool_call_parser=args.tool_call_parser,
        reasoning_parser=args.reasoning_parser,
        tools_without_calls=not args.exclude_tools_when_tool_choice_none,
        cors=_cors(args),
    )


def _cors(args: argparse.Namespace) -> Cors | None:
    """Which pages are let in; None: none, whatever the other flags say."""
    from forerun.server.server_settings import Cors

    origins = _names(args.allowed_origins, "--allowed-origins")
    methods = _names(args.allowed_methods, "--allowed-methods")
    headers = _names(args.allowed_headers, "--allowed-headers")
    return Cors(origins, methods, headers, args.allow_credentials) if origins else None


def _names(text: str, flag: str) -> tuple[str, ...]:
    """A JSON list of strings; one name may stand alone."""
    if not text.lstrip().startswith("["):
        return (text,)
    value = JsonReader(ConfigError, 'give a list of names such as ["*"]').parse(text, flag)
    if not all(isinstance(item, str) for item in value):
        raise ConfigError(f'{flag} must be a JSON list of names such as ["*"], not {text}')
    return tuple(value)


def notices(args: argparse.Namespace) -> list[str]:
    """One line for every kind of flag that changes nothing here."""
    lines = []
    if args.device == "neuron":
        lines.append("--device neuron: this machine's processor")
    if args.dtype in ("float16", "half"):
        lines.append(f"--dtype {args.dtype}: weights are stored as with auto; float32 keeps float16 weights exactly")
    return [*lines, *draft_notices(args, _override(args)), *crowding(args.threads), *foreign_notices(args.foreign)]


def say(line: str) -> None:
    """A line for the operator."""
    print(line, flush=True)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in ``argv`` (None: this process's own)."""
    from forerun.cli.parser import Parser

    parser = Parser(prog="forerun serve", allow_abbrev=False, description="OpenAI-compatible server")
    add_arguments(parser)
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None, open_model: Open | None = None, replica: Sequence[str] | None = None
) -> int:
    """The whole command by itself; see ``run``."""
    from forerun.cli.ending import run_command

    return run_command(lambda: run(parse(argv), open_model, replica))
