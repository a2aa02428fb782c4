"""What the target writes: the same text however often it is stopped, and nothing half written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from forerun.checkpoint import Tokenizer
from forerun.checkpoint.hf import read_tokenizer_files
from forerun.engine.engine_settings import EngineSettings
from forerun.errors import ConfigError, ForerunError
from forerun.opening import ModelRequest, OpenedModel, open_model
from forerun.runtime.loader import RunSettings
from forerun.training.collect import Collector, read_documents
from forerun.training.openings import frame_of, plan_document
from forerun.training.recipe import CollectRecipe
from forerun.training.shards import read_shard, shard_path
from forerun.whole_file import PART
from tests.support.tiny_checkpoints import write_tiny

RECIPE = CollectRecipe("tiny", seed=3, documents=4, answer_tokens=12)


@contextmanager
def opened(tmp_path: Path, together: int) -> Iterator[OpenedModel]:
    target = write_tiny(tmp_path / "target", "llama", seed=1)
    settings = EngineSettings(max_num_seqs=together, max_model_len=256)
    model = open_model(ModelRequest(str(target), engine=settings, run=RunSettings(1), artifact=tmp_path / "artifact"))
    try:
        yield model
    finally:
        model.executor.close()


def collect(model: OpenedModel, folder: Path, tokens: int, stop_after: int | None = None) -> int:
    calls = 0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise KeyboardInterrupt

    return Collector(model.executor, model.tokenizer, RECIPE, folder).run(tokens, tell)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_stops_change_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, 3) as model:
        whole = collect(model, tmp_path / "whole", 1500)
        assert whole >= 1500
        for calls in (200, 300):
            with pytest.raises(KeyboardInterrupt):
                collect(model, tmp_path / "stopped", 1500, stop_after=calls)
        (tmp_path / "stopped" / f"{PART}killed").write_bytes(b"half a shard")
        assert collect(model, tmp_path / "stopped", 1500) == whole
    wanted, found = content(tmp_path / "whole"), content(tmp_path / "stopped")
    assert len(wanted) > 3
    assert {name: found.get(name) for name in wanted} == wanted
    assert not any(name.startswith(PART) for name in found)


def test_text_does_not_depend_on_how_much_is_written_at_once(tmp_path: Path) -> None:
    for together in (1, 4):
        with opened(tmp_path, together) as model:
            collect(model, tmp_path / str(together), 500)
    one, four = (read_documents(tmp_path / name, 500) for name in ("1", "4"))
    assert [list(document.tokens) for document in one] == [list(document.tokens) for document in four]


def test_documents_are_questions_and_answers(tmp_path: Path) -> None:
    with opened(tmp_path, 4) as model:
        frame = frame_of(model.tokenizer)
        collect(model, tmp_path / "text", 1000)
    documents = read_documents(tmp_path / "text", 10**9)
    assert frame.chat
    assert [document.number for document in documents] == list(range(len(documents)))
    for document in documents:
        start = list(document.tokens[: document.answer])
        assert start[: len(frame.before)] == list(frame.before)
        assert start[-len(frame.between) :] == list(frame.between)
        assert 0 < len(document.tokens) - document.answer <= RECIPE.answer_tokens
    assert {document.temperature == 0 for document in documents} == {True, False}


def test_a_base_model_goes_on_with_its_own_beginning(tmp_path: Path) -> None:
    files = read_tokenizer_files(write_tiny(tmp_path, "llama"))
    files["tokenizer_config.json"] = files["tokenizer_config.json"].replace(b"chat_template", b"no_template")
    frame = frame_of(Tokenizer(files))
    assert (frame.chat, frame.between) == (False, ())


def test_plans_are_half_greedy_and_a_third_code() -> None:
    plans = [plan_document(1, number, chat=True) for number in range(600)]
    assert sum(plan.temperature == 0 for plan in plans) == 300
    assert sum(plan.code for plan in plans) == 200
    assert sum(plan.code and plan.temperature == 0 for plan in plans) == 100
    assert plans[7] == plan_document(1, 7, chat=True) != plan_document(2, 7, chat=True)


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, 2) as model:
        collect(model, tmp_path / "text", 1)
        other = CollectRecipe("tiny", seed=4, documents=4, answer_tokens=12)
        with pytest.raises(ConfigError, match="was begun with seed 3, not 4"):
            Collector(model.executor, model.tokenizer, other, tmp_path / "text").run(1, lambda *_: None)


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: bytes) -> None:
    path = shard_path(tmp_path, 0)
    path.write_bytes(damage)
    with pytest.raises(ForerunError, match=r"shard-00000\.npz: the shard is damaged"):
        read_shard(path)


def test_shards_can_be_read_with_numpy_alone(tmp_path: Path) -> None:
    with opened(tmp_path, 4) as model:
        collect(model, tmp_path / "text", 100)
    with np.load(shard_path(tmp_path / "text", 0)) as shard:
        assert shard["tokens"].dtype == np.uint16
        assert shard["ends"][-1] == len(shard["tokens"])
