"""One way to open a model: which artifact, whether it fits, with which settings it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from forerun.checkpoint import open_checkpoint
from forerun.config import NeuronConfig
from forerun.engine import EngineSettings
from forerun.errors import ArtifactError, ConfigError
from forerun.opening import ModelRequest, new_config, open_model, prepare
from forerun.runtime.loader import RunSettings
from tests.support.artifacts import tiny_artifact

ONE_THREAD = RunSettings(threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``model`` and ``artifact``, two sequences of 128 tokens."""
    path = tmp_path_factory.mktemp("opening")
    tiny_artifact(path, is_prefix_caching=True)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


def test_what_native_commands_compile_with(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder / "model"))
    config = new_config(checkpoint, ModelRequest(""))
    assert (config.batch_size, config.seq_len) == (4, 512)  # the model was made for 512 tokens
    assert config.is_prefix_caching and config.enable_bucketing and config.is_block_kv_layout
    engine = EngineSettings(max_num_seqs=7, max_model_len=100)
    sized = new_config(checkpoint, ModelRequest("", engine=engine))
    assert (sized.batch_size, sized.seq_len) == (7, 100)
    said = new_config(checkpoint, ModelRequest("", {"batch_size": 3, "is_prefix_caching": False}, engine))
    assert (said.batch_size, said.seq_len, said.is_prefix_caching) == (3, 100, False)
    assert new_config(checkpoint, ModelRequest("", {"seq_len": 64}, defaults={})) == NeuronConfig(seq_len=64)


def test_a_checkpoint_goes_through_the_cache_and_an_artifact_is_taken_as_it_is(folder: Path, own_cache: Path) -> None:
    first = prepare(ModelRequest(str(folder / "model"))).artifact
    assert first.path.parent == own_cache
    assert prepare(ModelRequest(str(folder / "model"), {"pa_num_blocks": 33})).artifact.path == first.path
    assert prepare(ModelRequest(str(folder / "artifact"))).artifact.path == folder / "artifact"


@pytest.mark.parametrize("how", ["missing", "always"])
def test_a_folder_of_its_own_keeps_run_time_settings_as_its_defaults(folder: Path, tmp_path: Path, how: str) -> None:
    request = ModelRequest(
        str(folder / "model"),
        {"pa_num_blocks": 33},
        artifact=tmp_path / "new",
        compile=how,  # type: ignore[arg-type]
    )
    assert prepare(request).artifact.neuron_config.pa_num_blocks == 33
    found = prepare(ModelRequest("not even there", artifact=tmp_path / "new", compile="never"))
    assert found.config.pa_num_blocks == 33


def test_what_is_not_there_is_not_compiled_when_it_must_not_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no artifact"):
        prepare(ModelRequest(str(folder / "model"), artifact=tmp_path / "new", compile="never"))
    with pytest.raises(ArtifactError, match="is missing, so this is no"):
        prepare(ModelRequest(str(folder / "model"), compile="never"))
    with pytest.raises(ArtifactError, match="is an artifact: give the checkpoint"):
        prepare(ModelRequest(str(folder / "artifact"), compile="always"))


def test_differences_are_told_then_refused(folder: Path) -> None:
    lines: list[str] = []
    engine = EngineSettings(max_num_seqs=1)
    with pytest.raises(ArtifactError, match=r"quantized true \(stored false\); compile again"):
        prepare(ModelRequest(str(folder / "artifact"), {"quantized": True, "seq_len": 128}, engine), lines.append)
    assert [line.split()[0] for line in lines[0].splitlines()[1:]] == ["quantized", "max_num_seqs"]


def test_less_than_the_artifact_has_is_a_limit_of_this_run(folder: Path) -> None:
    engine = EngineSettings(max_num_seqs=1, max_model_len=100, max_num_batched_tokens=40)
    model = open_model(ModelRequest(str(folder / "artifact"), engine=engine, run=ONE_THREAD))
    try:
        assert (model.engine.max_num_seqs, model.engine.max_model_len, model.executor.max_rows) == (1, 100, 40)
        assert (model.executor.max_seqs, model.executor.max_model_len) == (1, 100)
        assert (model.source, model.artifact, model.threads) == (str(folder / "artifact"), folder / "artifact", 1)
        assert model.isa
    finally:
        model.executor.close()


@pytest.mark.parametrize(("stored", "asked", "expected"), [(False, None, False), (True, None, True),
                                                           (False, True, True), (True, False, False)])  # fmt: skip
def test_prefix_caching_is_the_artifacts_unless_it_is_said(
    tmp_path: Path, stored: bool, asked: bool | None, expected: bool
) -> None:
    path = tiny_artifact(tmp_path, is_prefix_caching=stored).path
    engine = EngineSettings(enable_prefix_caching=asked)
    model = open_model(ModelRequest(str(path), engine=engine, run=ONE_THREAD))
    model.executor.close()
    assert model.engine.enable_prefix_caching is expected


def test_ranks_that_are_elsewhere_are_missed_before_anything_is_compiled(folder: Path, own_cache: Path) -> None:
    few = ModelRequest(str(folder / "model"), {"tp_degree": 4, "local_ranks_size": 2})
    with pytest.raises(ConfigError, match="local_ranks_size 2 of 4 ranks: the others are in other processes"):
        prepare(few)
    assert not own_cache.exists() or not list(own_cache.iterdir())


def test_unknown_settings_are_refused_before_anything_is_compiled(folder: Path, own_cache: Path) -> None:
    for model in ("model", "artifact"):
        with pytest.raises(ConfigError, match="did you mean 'seq_len'"):
            prepare(ModelRequest(str(folder / model), {"seq_lenn": 1}))
    assert not own_cache.exists()
