"""The packed weights of an artifact, mapped: nothing is copied, and only what this process's ranks need is touched."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.safetensors_file import SafetensorsFile, open_safetensors
from forerun.compiler.artifact import Artifact
from forerun.compiler.formats import PANEL
from forerun.compiler.program import Program, Weight
from forerun.compiler.shard import Ranks, panels_of
from forerun.compiler.weights import SCALES, stored_sizes
from forerun.errors import ArtifactError


@dataclass(frozen=True)
class PackedShard:
    """Whole panels of a matrix, from ``first_panel`` on: bytes of :mod:`forerun.compiler.pack`, and the channel scales
    of int8_channel."""

    first_panel: int
    data: NDArray[np.uint8]
    scales: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PackedWeight:
    """One weight as the kernels read it. A matrix: its shards, ascending and without gaps, all that these ranks use. A
    vector: float32, padded with zeros to a multiple of 64."""

    shards: tuple[PackedShard, ...] = ()
    vector: NDArray[np.float32] | None = None

    @staticmethod
    def whole(data: NDArray[np.uint8], scales: NDArray[np.float32] | None = None) -> PackedWeight:
        """A matrix in one piece."""
        return PackedWeight((PackedShard(0, data, scales),))


def map_weights(artifact: Artifact, program: Program, ranks: Ranks | None = None) -> dict[str, PackedWeight]:
    """What ``ranks`` (default: all) need. Raises ArtifactError when a tensor is missing or has another size."""
    ranks = ranks or Ranks()
    needed = panels_of(program, ranks)
    paths = artifact.weights_paths
    files = [_File(artifact, program, Ranks(rank, rank + 1, len(paths)), needed) for rank in range(len(paths))]
    used = [file for file in files if file.holds_any] or files[:1]
    weights: dict[str, PackedWeight] = {}
    for weight in program.weights.values():
        if len(weight.shape) == 1:
            weights[weight.name] = PackedWeight(vector=used[0].vector(weight))
        else:
            shards = (file.shard(weight) for file in used)
            weights[weight.name] = PackedWeight(tuple(shard for shard in shards if shard is not None))
    return weights


class _File:
    """The weights of one rank that the artifact was sharded for, and what is ``needed`` of them."""

    def __init__(self, artifact: Artifact, program: Program, of: Ranks, needed: Mapping[str, range]) -> None:
        self._artifact, self._path = artifact, artifact.weights_path(of.begin)
        self._panels = panels_of(program, of)
        self._needed = {name: _overlap(panels, needed[name]) for name, panels in self._panels.items()}
        self.holds_any = any(self._needed.values())
        self._opened: SafetensorsFile | None = None

    def vector(self, weight: Weight) -> NDArray[np.float32]:
        """A vector, which every file holds."""
        return np.frombuffer(self._raw(weight, weight.name), np.float32)

    def shard(self, weight: Weight) -> PackedShard | None:
        """The needed panels of a matrix, if there are any."""
        needed, here = self._needed[weight.name], self._panels[weight.name]
        if not needed:
            return None
        scales = None
        data = np.frombuffer(self._raw(weight, weight.name), np.uint8)
        if weight.format == "int8_channel":
            scales = np.frombuffer(self._raw(weight, weight.name + SCALES), np.float32)
            scales = scales.reshape(len(here), PANEL)[needed.start - here.start : needed.stop - here.start].reshape(-1)
        data = data.reshape(len(here), -1)[needed.start - here.start : needed.stop - here.start].reshape(-1)
        return PackedShard(needed.start, data, scales)

    def _raw(self, weight: Weight, name: str) -> memoryview:
        file = self._open()
        kind, count = stored_sizes(weight, self._panels.get(weight.name))[name]
        entry = file.entries.get(name)
        if entry is None or entry.dtype != kind or entry.shape != (count,):
            what = f"tensor '{name}' of {count} {kind}"
            raise ArtifactError(f"{self._artifact.path}: the weights hold no {what}; compile it again")
        return file.content[entry.start : entry.end]

    def _open(self) -> SafetensorsFile:
        if self._opened is None:
            self._opened = open_safetensors(self._path)
            content = self._opened.content
            if isinstance(content.obj, mmap.mmap) and self._needed == self._panels:
                content.obj.madvise(mmap.MADV_WILLNEED)
        return self._opened


def _overlap(a: range, b: range) -> range:
    start = max(a.start, b.start)
    return range(start, max(start, min(a.stop, b.stop)))
