"""An artifact serves any tensor parallel degree, whole or sharded, with the same tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from forerun.compiler.artifact import open_artifact
from forerun.compiler.weights import stored_bytes
from forerun.errors import ArtifactError
from forerun.opening import ModelRequest, open_model, prepare
from forerun.runtime.ranks import RankGroup
from forerun.runtime.step import StepOutput
from forerun.runtime.weights import PackedWeight, map_weights
from tests.support.reference_models import one_sequence
from tests.support.tiny_checkpoints import write_tiny

SIZES = {"seq_len": 64, "batch_size": 2}


def run(folder: Path, **settings: int) -> StepOutput:
    opened = open_model(ModelRequest(str(folder), settings))
    output = opened.executor.step(one_sequence([1, 5, 9, 2], table=[0, 1]))
    opened.executor.close()
    return output


def compiled(tmp_path: Path, name: str, **settings: object) -> Path:
    model = tmp_path / "model"
    if not model.exists():
        write_tiny(model, "llama")
    prepare(ModelRequest(str(model), {**SIZES, **settings}, artifact=tmp_path / name))
    return tmp_path / name


def test_every_degree_from_every_artifact(tmp_path: Path) -> None:
    whole, three = compiled(tmp_path, "whole"), compiled(tmp_path, "three", tp_degree=3, save_sharded_checkpoint=True)
    channels = compiled(
        tmp_path, "five", tp_degree=5, save_sharded_checkpoint=True, quantized=True, quantization_dtype="int8",
        quantization_type="per_channel_symmetric",
    )  # fmt: skip
    assert [path.name for path in open_artifact(whole).weights_paths] == ["tp0_sharded_checkpoint.safetensors"]
    assert len(open_artifact(three).weights_paths) == 3 and len(open_artifact(channels).weights_paths) == 5
    expected = run(whole).logits
    assert expected is not None
    for folder in (whole, three):
        for degree in (1, 2, 3, 4, 5, 8):
            logits = run(folder, tp_degree=degree).logits
            assert logits is not None and logits.tobytes() == expected.tobytes()
    wide = [run(channels, tp_degree=degree).logits for degree in (1, 5, 7)]
    assert all(logits is not None and np.array_equal(logits, wide[0]) for logits in wide)


def test_a_member_maps_its_ranks_alone(tmp_path: Path) -> None:
    """Of a whole artifact, and of one that was sharded for another number of ranks."""
    for folder in (compiled(tmp_path, "w"), compiled(tmp_path, "s", tp_degree=3, save_sharded_checkpoint=True)):
        artifact = open_artifact(folder)
        parts = [map_weights(artifact, artifact.program, RankGroup(m, (0, 1, 4)).ranks) for m in range(2)]
        for name, weight in map_weights(artifact, artifact.program).items():
            if weight.vector is not None:
                assert all(np.array_equal(part[name].vector, weight.vector) for part in parts)  # type: ignore[arg-type]
                continue
            size = stored_bytes(artifact.program.weights[name], (range(1),))
            panels = dict(panel for part in parts for panel in panels_in(part[name], size))
            assert panels == dict(panels_in(weight, size)), name


def panels_in(weight: PackedWeight, size: int) -> Iterator[tuple[int, bytes]]:
    """Number and content of each panel; no number comes twice."""
    last = -1
    for shard in weight.shards:
        assert shard.first_panel > last
        for number, data in enumerate(shard.data.reshape(-1, size), shard.first_panel):
            yield number, data.tobytes()
            last = number


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    folder = compiled(tmp_path, "a", tp_degree=2, save_sharded_checkpoint=True)
    open_artifact(folder).weights_path(1).unlink()
    with pytest.raises(ArtifactError, match=r"tp1_sharded_checkpoint\.safetensors is missing"):
        open_artifact(folder)


def test_a_shard_is_not_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same size, and too large for its checksum to be looked at whenever it is opened."""
    folder = compiled(tmp_path, "a", tp_degree=2, save_sharded_checkpoint=True)
    monkeypatch.setattr("forerun.compiler.artifact._VERIFY_AT_LOAD", 0)
    first = open_artifact(folder).weights_path(0)
    assert first.read_bytes().count(b'"rank": "0"') == 1
    first.write_bytes(first.read_bytes().replace(b'"rank": "0"', b'"rank": "1"'))
    with pytest.raises(ArtifactError, match="these are the weights of rank '1', not 0"):
        open_model(ModelRequest(str(folder), {}))
