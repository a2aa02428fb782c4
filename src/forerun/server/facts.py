"""What a server says about itself at /server_info: enough to read a measurement of it later."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forerun.compiler.artifact import MANIFEST
from forerun.host.machine import read_host
from forerun.server.service import Service


def server_facts(service: Service) -> dict[str, Any]:
    """Program, machine, model and memory as plain JSON values; None where the system does not say."""
    opened = service.opened
    host = read_host()
    return {
        "version": service.version,
        "pid": os.getpid(),
        "cpu": host.cpu_model or None,
        "processors": len(host.cpus),
        "isa": opened.isa or None,
        "threads": opened.threads,
        "artifact_checksum": _checksum(opened.artifact / MANIFEST),
        "max_num_seqs": service.engine.step_limits.seqs,
        "kv_cache_dtype": opened.config.kv_cache_dtype,
        "num_gpu_blocks": service.num_blocks,
        "block_size": service.block_size,
        "max_model_len": service.max_model_len,
        "enable_prefix_caching": service.engine.settings.enable_prefix_caching,
        "speculative_config": asdict(drafts) if (drafts := service.engine.settings.speculative_config) else None,
        "startup_seconds": service.startup_seconds,
        "resident_bytes": resident_bytes(),
    }


def _checksum(manifest: Path) -> str | None:
    """Of the manifest, which has the checksums of all other files of an artifact."""
    try:
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError:
        return None


def resident_bytes(root: Path = Path("/proc")) -> int | None:
    """Memory of this process that is in RAM."""
    try:
        return int((root / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def seconds_alive(root: Path = Path("/proc")) -> float | None:
    """Since this process was started."""
    try:
        ticks = int((root / "self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
