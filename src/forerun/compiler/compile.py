"""Checkpoint -> artifact: describe, trace, lower, quantise, pack, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forerun.checkpoint.base import Checkpoint, ModelConfig
from forerun.checkpoint.text_origin import check_tokenizer
from forerun.compiler.artifact import (
    CONFIG,
    MANIFEST,
    PLAN,
    PROGRAM,
    VERSION,
    WEIGHTS,
    checksum,
    new_artifact,
    shard_count,
    shard_mark,
    weights_path,
    write_json,
)
from forerun.compiler.buckets import BucketPlan, plan_buckets
from forerun.compiler.lower import lower
from forerun.compiler.pack import bits_per_weight
from forerun.compiler.policy import format_chooser
from forerun.compiler.program import Program, Weight
from forerun.compiler.shard import Panels, Ranks, panels_of
from forerun.compiler.trace import trace
from forerun.compiler.weights import StoredWeight, part_of, store_weight, stored_bytes, stored_sizes
from forerun.compiler.weights_file import WeightsFile
from forerun.config import InferenceConfig, NeuronConfig
from forerun.errors import CheckpointError, ConfigError, one_line

Progress = Callable[[str, int, int], None]
"""(what is being done, bytes done, bytes in all)"""

_ROOM = 16 << 20  # bytes beside the weights: tokenizer, programs
_AHEAD = 4  # weights prepared before they are written


@dataclass(frozen=True)
class CompilePlan:
    """What a compilation will do; made without reading any weight."""

    program: Program
    buckets: BucketPlan
    config: InferenceConfig

    @property
    def weight_bytes(self) -> int:
        """Size of the packed weights."""
        return sum(map(stored_bytes, self.program.weights.values()))


def plan_compile(checkpoint: Checkpoint, config: NeuronConfig) -> CompilePlan:
    """Trace and lower the model for ``config``. Raises ConfigError or CheckpointError when they do not go together."""
    model = checkpoint.config
    if config.max_length > model.context_length:
        raise ConfigError(
            f"seq_len {config.max_length} is longer than the model's {_context(model)}: lower seq_len (and the buckets)"
        )
    traced = trace(model, config.max_length)
    program = lower(traced, format_chooser(config, traced, checkpoint.tensors))
    return CompilePlan(program, plan_buckets(config), InferenceConfig(config, _model_json(checkpoint)))


def _context(model: ModelConfig) -> str:
    """The context length and where it comes from, for people."""
    positions, scaling = f"max_position_embeddings {model.max_position_embeddings}", model.rope_scaling
    if scaling is None or model.context_length == model.max_position_embeddings:
        return positions
    return f"context of {model.context_length} tokens ({positions}, rope scaling {scaling.kind} by {scaling.factor:g})"


def _model_json(checkpoint: Checkpoint) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(checkpoint.config)))
    values["source"] = one_line(checkpoint.source)
    values["generation_config"] = dict(checkpoint.generation_config)
    return values


def compile_checkpoint(
    checkpoint: Checkpoint,
    config: NeuronConfig,
    output: Path,
    progress: Progress = lambda what, done, total: None,
    *,
    elsewhere: str = "give another output folder",
) -> CompilePlan:
    """Write the artifact to ``output``; on any error nothing is left there that was not there before. ``elsewhere``:
    what to do when that is no place to write to.

    Raises ConfigError, CheckpointError or ArtifactError with one line.
    """
    plan = plan_compile(checkpoint, config)
    if "tokenizer.json" not in checkpoint.tokenizer_files:
        raise CheckpointError(
            f"{checkpoint.source}: tokenizer.json is missing; fetch the checkpoint with its tokenizer"
        )
    # A broken one is refused here, not by the artifact's first user.
    check_tokenizer(checkpoint.tokenizer_files, checkpoint.config.vocab_size)
    with new_artifact(output, plan.weight_bytes + _ROOM, elsewhere) as folder:
        (folder / WEIGHTS).mkdir()
        for name, content in checkpoint.tokenizer_files.items():
            (folder / name).write_bytes(content)
        (folder / CONFIG).write_text(plan.config.to_json(), "utf-8")
        write_json(folder / PLAN, plan.buckets.to_json())
        (folder / PROGRAM).write_text(plan.program.dumps(), "utf-8")
        digests, exact = _write_weights(folder, plan, checkpoint, config, progress)
        write_json(folder / MANIFEST, _manifest(folder, plan, checkpoint, digests, exact))
    return plan


def _write_weights(
    folder: Path, plan: CompilePlan, checkpoint: Checkpoint, config: NeuronConfig, progress: Progress
) -> tuple[dict[str, str], dict[str, bool]]:
    """One file for each shard: name -> SHA-256; and weight -> whether its numbers are the checkpoint's own."""
    weights = list(plan.program.weights.values())
    count = shard_count(config)
    shards = [panels_of(plan.program, Ranks(rank, rank + 1, count)) for rank in range(count)]
    files: list[WeightsFile] = []
    exact: dict[str, bool] = {}
    done = 0
    try:
        for rank, panels in enumerate(shards):
            files.append(WeightsFile(folder / weights_path(rank), _sizes(weights, panels), shard_mark(rank, count)))
        for weight, stored in _prepared(weights, checkpoint, config.weights_format == "int8_tensor"):
            for file, panels in zip(files, shards, strict=True):
                for name, array in part_of(weight, stored, panels.get(weight.name)).items():
                    file.write(name, array)
            exact[weight.name] = stored.exact
            done += sum(array.nbytes for array in stored.tensors.values())
            progress(weight.name, done, plan.weight_bytes)
        return {weights_path(rank): file.close() for rank, file in enumerate(files)}, exact
    finally:
        for file in files:
            file.abort()


def _sizes(weights: list[Weight], panels: Mapping[str, Panels]) -> dict[str, tuple[str, int]]:
    return {name: size for w in weights for name, size in stored_sizes(w, panels.get(w.name)).items()}


def _prepared(weights: list[Weight], checkpoint: Checkpoint, per_tensor: bool) -> Iterator[tuple[Weight, StoredWeight]]:
    """Quantise and pack on a few threads, a few weights ahead of the writer."""
    with ThreadPoolExecutor(_AHEAD // 2) as pool:
        queue: list[tuple[Weight, Future[StoredWeight]]] = []
        rest = iter(weights)
        try:
            while True:
                while len(queue) < _AHEAD and (weight := next(rest, None)) is not None:
                    queue.append((weight, pool.submit(store_weight, weight, checkpoint, per_tensor=per_tensor)))
                if not queue:
                    return
                weight, future = queue.pop(0)
                yield weight, future.result()
        finally:
            for _, future in queue:
                future.cancel()


def _manifest(
    folder: Path, plan: CompilePlan, checkpoint: Checkpoint, weights_digests: Mapping[str, str], exact: dict[str, bool]
) -> dict[str, Any]:
    from importlib.metadata import version

    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": weights_digests.get(name) or checksum(path)}
    return {
        "format_version": VERSION,
        "forerun_version": version("forerun"),
        "source": one_line(checkpoint.source),
        "source_fingerprint": checkpoint.fingerprint,
        "tokenizer_files": sorted(checkpoint.tokenizer_files),
        "notes": list(checkpoint.notes),
        "quantization": quantization_summary(plan.program, exact, checkpoint),
        "files": files,
    }


def quantization_summary(program: Program, exact: dict[str, bool], checkpoint: Checkpoint) -> dict[str, Any]:
    """Per format: matrices, weights, tensors of the checkpoint by type, bytes there and as stored, and whether its own
    numbers were kept."""
    summary: dict[str, Any] = {}
    for weight in program.weights.values():
        if len(weight.shape) != 2:
            continue
        start: dict[str, Any] = {"matrices": 0, "weights": 0, "source_bytes": 0, "bytes": 0, "exact": True}
        start["sources"] = {}
        entry = summary.setdefault(weight.format, start | {"bits_per_weight": bits_per_weight(weight.format)})
        entry["matrices"] += 1
        entry["weights"] += weight.shape[0] * weight.shape[1]
        for tensor in (checkpoint.tensors[name] for name in weight.sources):
            entry["sources"][tensor.kind] = entry["sources"].get(tensor.kind, 0) + 1
            entry["source_bytes"] += tensor.nbytes
        entry["bytes"] += stored_sizes(weight)[weight.name][1]
        entry["exact"] = entry["exact"] and exact[weight.name]
    return summary
