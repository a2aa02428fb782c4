"""What the operator sees before the first request."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from forerun.server.server_settings import ServerSettings
from forerun.server.service import Service

_LOCAL = ("127.0.0.1", "::1", "localhost")


def package_version() -> str:
    """The version of the installed package."""
    try:
        return version("forerun")
    except PackageNotFoundError:
        return "unknown"


def banner(service: Service) -> str:
    """Model, instruction set, threads, KV capacity and address, one line each."""
    model, settings, engine = service.opened, service.settings, service.engine
    stats = engine.stats()
    tokens = stats.kv_blocks * service.block_size
    caching = "on" if engine.settings.enable_prefix_caching else "off (--enable-prefix-caching turns it on)"
    threads = f"{model.threads} thread{'s' if model.threads != 1 else ''}"
    ranks = max(model.config.tp_degree, model.members)
    among = f", in one of {model.members} processes" if model.members > 1 else ""
    lines = [
        f"Forerun {service.version}",
        f"  model     {', '.join(settings.served_names)} (artifact {model.artifact})",
        f"  runs on   {model.isa}, {threads}{among}",
        *([f"  ranks     {ranks}"] if ranks > 1 else []),
        f"  KV cache  {tokens} tokens in {stats.kv_blocks} blocks of {service.block_size}: "
        f"{tokens / service.max_model_len:.1f} sequences of {service.max_model_len} tokens; prefix caching {caching}",
        f"            up to {model.kv_bytes / 1e9:.2f} GB, taken as it is used; --num-gpu-blocks-override N changes it",
        f"  steps     up to {engine.step_limits.seqs} sequences and {engine.step_limits.rows} rows; "
        f"{engine.settings.max_queued_requests} requests may wait",
        *address_lines(settings),
    ]
    return "\n".join(lines)


def address_lines(settings: ServerSettings) -> list[str]:
    """Where the server is, and whether that is open to everybody."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = [f"  URL       {f'unix:{settings.uds}' if settings.uds else f'http://{host}:{settings.port}'}"]
    if not settings.uds and settings.host not in _LOCAL and not settings.api_keys:
        lines.append("  warning   everybody who can reach this address can use the model: --api-key closes it")
    return lines
