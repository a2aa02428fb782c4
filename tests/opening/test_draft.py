"""A draft model is opened beside its target: shared threads, equal pools, one vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forerun.engine import SamplingParams
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.generator import Generator
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ForerunError
from forerun.opening import ModelRequest, open_model
from tests.support.tiny_checkpoints import write_tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))


def request(target: Path, draft: Path, **keys: object) -> ModelRequest:
    drafts = SpeculativeConfig.from_dict({"model": str(draft), **keys})
    engine = EngineSettings(max_num_seqs=2, max_model_len=96, speculative_config=drafts)
    return ModelRequest(str(target), engine=engine)


def test_a_draft_shares_threads_and_block_numbers(tmp_path: Path) -> None:
    target = write_tiny(tmp_path / "target", "llama", seed=1)
    said: list[str] = []
    model = open_model(request(target, target, num_speculative_tokens=3, quantization="int8"), said.append)
    draft, executor = model.draft, model.executor
    assert draft is not None and draft is not executor
    assert draft.team is executor.team  # type: ignore[attr-defined]
    assert (draft.num_blocks, draft.block_size) == (executor.num_blocks, executor.block_size)
    assert f"Draft model {target}: up to 3 drafted + 1 tokens a step" in said
    drafts = model.engine.speculative_config
    assert drafts is not None and 1 in dict(drafts.draft_costs)
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    with Generator(executor, model.tokenizer, settings=model.engine, draft=draft) as llm:
        drafted = llm.generate("abc", params)[0].outputs[0]
    plain = open_model(ModelRequest(str(target), engine=EngineSettings(max_num_seqs=2, max_model_len=96)))
    with Generator(plain.executor, plain.tokenizer, settings=plain.engine) as llm:
        assert llm.generate("abc", params)[0].outputs[0] == drafted


def test_the_draft_gets_its_own_folder(tmp_path: Path) -> None:
    target = write_tiny(tmp_path / "target", "llama", seed=1)
    for _ in range(2):  # compiled, then found
        open_model(request(target, target, compiled=str(tmp_path / "draft"))).executor.close()
    assert (tmp_path / "draft" / "manifest.json").is_file()


def test_a_draft_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    target = write_tiny(tmp_path / "target", "llama", seed=1)
    draft = write_tiny(tmp_path / "draft", "llama", seed=2)
    tokenizer = json.loads((draft / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["!"], vocabulary["?"] = vocabulary["?"], vocabulary["!"]
    (draft / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ForerunError, match=r"its tokenizer is another one .token 3[0-9]* is '.', the target's is '!'"):
        open_model(request(target, draft))


def test_mistakes_about_the_draft_name_it(tmp_path: Path) -> None:
    target = write_tiny(tmp_path / "target", "llama", seed=1)
    with pytest.raises(ForerunError, match="draft model /nowhere: "):
        open_model(request(target, Path("/nowhere")))
