"""``forerun serve``: an OpenAI-compatible server, with vLLM's flag names."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from forerun.cli.serve_flags import SPECULATION_FLAGS, UNUSED_FLAGS, add_flags
from forerun.errors import ConfigError

if TYPE_CHECKING:
    from forerun.engine import EngineSettings
    from forerun.server.address import Address
    from forerun.server.backend import ServeBackend
    from forerun.server.prepare import ModelRequest, Prepared
    from forerun.server.settings import ServerSettings

DEFAULT_ROWS = 512
KEY_VARIABLE = "VLLM_API_KEY"
_KV_DTYPES = {"auto": None, "bfloat16": False, "int8": True}
_QUANTIZATIONS = {"int8": "int8", "int4": "int4", "neuron_quant": "int8"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_flags(parser)


def run(args: argparse.Namespace, make_backend: Callable[[], ServeBackend] | None = None) -> int:
    """Prepare the model, then serve until a signal. Returns the exit status; raises ForerunError for user mistakes."""
    model, engine, server = model_request(args), engine_settings(args), server_settings(args)
    for line in notices(args):
        _say(line)
    from forerun.server.address import bound
    from forerun.server.prepare import prepare

    with bound(server) as address:
        prepared = prepare(model, (make_backend or _native_backend)(), _say)
        return _serve(args, prepared, engine, address)


def _native_backend() -> ServeBackend:
    from forerun.server.native_backend import NativeBackend

    return NativeBackend()


def _serve(args: argparse.Namespace, prepared: Prepared, engine: EngineSettings, address: Address) -> int:
    from contextlib import closing
    from dataclasses import replace

    from forerun.server.banner import banner, package_version
    from forerun.server.run import run as run_server
    from forerun.server.service import ModelInfo, Service

    loaded = prepared.loaded
    info = ModelInfo(args.model, prepared.config, loaded.isa, loaded.threads, str(prepared.artifact))
    engine = replace(
        engine,
        max_num_seqs=prepared.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens or loaded.executor.max_rows,
        enable_prefix_caching=prepared.prefix_caching,
    )
    version = package_version()
    with closing(loaded.executor):
        service = Service(
            loaded.executor,
            loaded.tokenizer,
            info,
            address.settings,
            engine,
            max_model_len=prepared.max_model_len,
            seed=args.seed,
            version=version,
        )
        with closing(service.engine):
            _say(banner(service))
            return run_server(service, address)


def model_request(args: argparse.Namespace) -> ModelRequest:
    """Which model, how it is stored, how it runs. Raises ConfigError."""
    from forerun.server.backend import RunOptions
    from forerun.server.prepare import ModelRequest

    if args.tensor_parallel_size != 1:
        raise ConfigError(
            f"--tensor-parallel-size {args.tensor_parallel_size}: more than one rank is not in this version; use 1"
        )
    if args.device not in ("neuron", "cpu", "auto"):
        raise ConfigError(f"--device {args.device} is not here: use cpu (neuron and auto mean the same)")
    for name in ("max_num_seqs", "max_model_len", "max_num_batched_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if args.threads < 0:
        raise ConfigError(f"--threads {args.threads} must not be negative")
    rows = args.max_num_batched_tokens or max(DEFAULT_ROWS, args.max_num_seqs or 0)
    return ModelRequest(
        args.model,
        max_num_seqs=args.max_num_seqs,
        max_model_len=args.max_model_len,
        prefix_caching=args.enable_prefix_caching,
        settings=_settings(args),
        override=_override(args.override_neuron_config),
        recompile=args.recompile,
        run=RunOptions(args.threads, args.isa, rows),
    )


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Flags that are settings of the artifact, under NeuronConfig's names."""
    settings: dict[str, Any] = {}
    if args.block_size is not None:
        settings["pa_block_size"] = args.block_size
    if args.num_gpu_blocks_override is not None:
        settings["pa_num_blocks"] = args.num_gpu_blocks_override
    if args.dtype != "auto":
        settings["torch_dtype"] = args.dtype
    if args.kv_cache_dtype not in _KV_DTYPES:
        raise ConfigError(f"--kv-cache-dtype {args.kv_cache_dtype} is not here: use {', '.join(_KV_DTYPES)}")
    if _KV_DTYPES[args.kv_cache_dtype] is not None:
        settings["kv_cache_quant"] = _KV_DTYPES[args.kv_cache_dtype]
    if args.quantization is not None:
        if args.quantization not in _QUANTIZATIONS:
            raise ConfigError(f"--quantization {args.quantization} is not here: use int8 or int4")
        settings |= {"quantized": True, "quantization_dtype": _QUANTIZATIONS[args.quantization]}
    return settings


def _override(text: str | None) -> dict[str, Any]:
    """The JSON object of --override-neuron-config."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--override-neuron-config is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError('--override-neuron-config must be a JSON object such as {"is_prefix_caching": true}')
    return value


def engine_settings(args: argparse.Namespace) -> EngineSettings:
    """What the engine does at once."""
    from forerun.engine import EngineSettings

    return EngineSettings(
        max_num_batched_tokens=args.max_num_batched_tokens,
        max_queued_requests=args.max_queued_requests,
        policy=args.scheduling_policy,
    )


def server_settings(args: argparse.Namespace) -> ServerSettings:
    """Address, keys, caps, time-outs."""
    from forerun.server.settings import Caps, ServerSettings, Timeouts

    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port {args.port} is no port: use 0 to 65535")
    if args.shutdown_timeout < 0:
        raise ConfigError(f"--shutdown-timeout {args.shutdown_timeout} must not be negative")
    if not 0 <= args.max_logprobs <= 1000:
        raise ConfigError(f"--max-logprobs {args.max_logprobs} must be within 0 and 1000")
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
        caps=Caps(logprobs=args.max_logprobs, body_bytes=args.max_body_bytes),
        timeouts=Timeouts(shutdown=args.shutdown_timeout),
        request_log=not args.disable_log_requests,
    )


def notices(args: argparse.Namespace) -> list[str]:
    """One line for every kind of flag that changes nothing here."""
    lines = []
    if args.device == "neuron":
        lines.append("--device neuron: this machine's processor")
    speculation = [flag for flag in SPECULATION_FLAGS if getattr(args, _dest(flag)) is not None]
    if speculation:
        lines.append(f"{', '.join(speculation)}: not in this version, tokens are the same without")
    unused = [flag for flag in UNUSED_FLAGS if getattr(args, _dest(flag)) not in (None, False)]
    if unused:
        lines.append(f"{', '.join(unused)}: no effect here")
    return lines


def _dest(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: Sequence[str] | None = None, make_backend: Callable[[], ServeBackend] | None = None) -> int:
    """The whole command by itself; ``make_backend`` replaces the native one."""
    from forerun.cli.ending import run_command
    from forerun.cli.main import Parser

    parser = Parser(prog="forerun serve", allow_abbrev=False, description="OpenAI-compatible server")
    add_arguments(parser)
    return run_command(lambda: run(parser.parse_args(argv), make_backend))
