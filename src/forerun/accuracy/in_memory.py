"""A checkpoint straight into a running executor, without an artifact on the disk: for references and measurements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forerun.checkpoint import Checkpoint
from forerun.compiler.compile import CompilePlan, plan_compile
from forerun.compiler.weights import SCALES, store_weight
from forerun.config import NeuronConfig
from forerun.errors import AccuracyError, ConfigError
from forerun.host.machine import read_host
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.weights import PackedWeight

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""

BLOCK_SIZE = 32


def float32_config(context: int) -> NeuronConfig:
    """One sequence of ``context`` tokens, every weight in float32."""
    return one_sequence_config(context, torch_dtype="float32")


def one_sequence_config(context: int, **settings: object) -> NeuronConfig:
    """One sequence of ``context`` tokens; ``settings`` choose the weight format."""
    return NeuronConfig.from_dict({"seq_len": context, "batch_size": 1, **settings})


def open_in_memory(
    checkpoint: Checkpoint,
    config: NeuronConfig,
    *,
    threads: int = 0,
    isa: str = "",
    progress: Progress = lambda done, total: None,
) -> NativeExecutor:
    """Quantise and pack all weights in memory and start an executor for one sequence of ``config.max_length`` tokens.

    ``threads`` 0 takes one per usable core. Raises AccuracyError when the weights exceed the available memory,
    ConfigError or CheckpointError when model and configuration do not go together.
    """
    host = read_host()
    plan = plan_compile(checkpoint, config)
    if host.memory_available is not None and plan.weight_bytes > host.memory_available:
        raise AccuracyError(
            f"{checkpoint.source}: its weights take {plan.weight_bytes >> 20} MiB in {config.weights_format}, "
            f"{host.memory_available >> 20} MiB are available: use a machine with more memory"
        )
    count = threads or host.default_threads()
    options = NativeOptions(
        num_blocks=-(-config.max_length // BLOCK_SIZE),
        block_size=BLOCK_SIZE,
        max_model_len=config.max_length,
        max_seqs=1,
        kv_dtype=config.kv_cache_dtype,
        threads=count,
        cpus=host.pin_cpus(count),
        isa=isa,
    )
    weights = _packed(plan, checkpoint, config.weights_format == "int8_tensor", progress)
    try:
        return NativeExecutor(plan.program, weights, options)
    except (ValueError, MemoryError) as error:
        raise ConfigError(f"the model cannot be started: {error or 'out of memory'}") from None


def _packed(plan: CompilePlan, checkpoint: Checkpoint, per_tensor: bool, progress: Progress) -> dict[str, PackedWeight]:
    weights, done = {}, 0
    for entry in plan.program.weights.values():
        stored = store_weight(entry, checkpoint, per_tensor=per_tensor).tensors
        value, scales = stored[entry.name], stored.get(entry.name + SCALES)
        if len(entry.shape) == 1:
            weights[entry.name] = PackedWeight(vector=value.astype(np.float32, copy=False))
        else:
            wide = None if scales is None else scales.astype(np.float32, copy=False)
            weights[entry.name] = PackedWeight.whole(value.view(np.uint8), wide)
        done += sum(array.nbytes for array in stored.values())
        progress(done, plan.weight_bytes)
    return weights
