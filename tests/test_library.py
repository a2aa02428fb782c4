"""forerun.LLM: artifacts, checkpoints and executors in one line of Python."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

import forerun
from forerun import LLM, SamplingParams
from forerun import progress as bar
from forerun.engine.request_errors import RequestError
from forerun.errors import ArtifactError, CheckpointError, ConfigError, ForerunError
from forerun.library import answers_progress
from forerun.opening import cache
from tests.support.artifacts import tiny_artifact
from tests.support.oracle import OracleExecutor, predict

GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
SMALL = {"seq_len": 128, "batch_size": 2, "pa_num_blocks": 16, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``model`` and ``artifact``."""
    path = tmp_path_factory.mktemp("library")
    tiny_artifact(path, seq_len=128, batch_size=2, is_prefix_caching=True)
    return path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


def test_artifact_and_checkpoint_answer_alike(folder: Path, own_cache: Path) -> None:
    with LLM(folder / "artifact", threads=1, pa_num_blocks=16) as llm:
        first = llm.generate(["Hello", "a longer prompt"], GREEDY)
    with LLM(model=str(folder / "model"), **SMALL) as llm:
        second = llm.generate(["Hello", "a longer prompt"], GREEDY)
    assert [each.outputs[0].token_ids for each in first] == [each.outputs[0].token_ids for each in second]
    assert all(len(each.outputs[0].token_ids) == 5 for each in first)
    assert first[0].prompt == "Hello" and first[0].outputs[0].finish_reason == "length"


def test_ranks_have_vllms_name_too(folder: Path) -> None:
    few = {"threads": 1, "pa_num_blocks": 16}
    with LLM(folder / "artifact", **few) as llm:
        expected = llm.generate("Hello", GREEDY)[0].outputs[0].token_ids
    with LLM(folder / "artifact", tensor_parallel_size=2, data_parallel_size=1, **few) as llm:
        assert llm.generate("Hello", GREEDY)[0].outputs[0].token_ids == expected


def test_a_checkpoint_is_compiled_once_whatever_this_run_is_like(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LLM(folder / "model", **SMALL).close()
    monkeypatch.setattr(cache, "compile_checkpoint", lambda *_: pytest.fail("compiled again"))
    LLM(folder / "model", **{**SMALL, "pa_num_blocks": 20}).close()
    assert len(list(own_cache.iterdir())) == 1


def test_chat_is_generate_after_the_template(folder: Path) -> None:
    with LLM(folder / "artifact", threads=1, pa_num_blocks=16) as llm:
        talk = [{"role": "user", "content": "hi"}]
        (one,) = llm.chat(talk, GREEDY)
        text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert one.prompt == text
        ids = llm.tokenizer.encode(text, add_special_tokens=False)
        assert one.outputs[0].token_ids == llm.generate([ids], GREEDY)[0].outputs[0].token_ids
        two = llm.chat([talk, [*talk, {"role": "assistant", "content": "yes"}]], GREEDY, add_generation_prompt=False)
        assert [each.prompt for each in two] == [text[:30], text[:30] + "<|im_start|>assistant\nyes<|im_end|>\n"]


@pytest.mark.parametrize(("wanted", "hits"), [({}, 32), ({"enable_prefix_caching": False}, 0)])
def test_prefix_caching_is_the_artifacts_unless_it_is_said(folder: Path, wanted: dict[str, bool], hits: int) -> None:
    with LLM(folder / "artifact", threads=1, pa_num_blocks=16, **wanted) as llm:
        llm.generate([[5] * 40], GREEDY)
        assert llm.generate([[5] * 40], GREEDY)[0].num_cached_tokens == hits


def test_an_executor_and_its_settings() -> None:
    with LLM(OracleExecutor(), max_num_seqs=1) as llm:
        assert llm.generate([[3], [4]], GREEDY)[1].outputs[0].token_ids == predict([4], 5, 128)
        assert llm.engine.step_limits.seqs == 1
        with pytest.raises(ForerunError, match="chat template"):
            llm.chat([{"role": "user", "content": "hi"}])
    with pytest.raises(ConfigError, match="threads: settings of a model"):
        LLM(OracleExecutor(), threads=1)


@pytest.mark.parametrize(
    ("model", "settings", "kind", "message"),
    [
        ("artifact", {"seq_length": 64}, ConfigError, "did you mean 'seq_len'"),
        ("model", {"seq_length": 64}, ConfigError, "did you mean 'seq_len'"),
        ("artifact", {"seq_len": 1 << 20}, ConfigError, "seq_len 1048576 is longer than the model's context"),
        ("artifact", {"quantized": True}, ArtifactError, "quantized true .stored false.; compile again"),
        ("artifact", {"isa": "quantum"}, ConfigError, "quantum"),
        ("nothing", {}, CheckpointError, "nothing"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, own_cache: Path, model: str, settings: dict[str, object], kind: type[ForerunError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        LLM(folder / model, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": None}, "a model is a path, a name or an executor, not NoneType"),
        ({"speculative_config": 5}, "speculative_config must be a mapping"),
        ({"data_parallel_size": 2}, "an LLM is one replica; forerun serve --data-parallel-size starts several"),
        ({"tensor_parallel_size": 2, "tp_degree": 3}, "tensor_parallel_size and tp_degree are the same"),
        ({"tensor_parallel_size": 0}, "tp_degree must be at least 1"),
        ({"max_num_batched_tokens": 10**400}, "max_num_batched_tokens must be at most"),
        ({"max_num_batched_tokens": 1 << 32}, "max_num_batched_tokens must be at most"),
    ],
)
def test_what_is_no_setting_is_one_line(folder: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LLM(**{"model": folder / "artifact", **settings})


def test_parameters_of_another_kind_and_a_closed_model(folder: Path, own_cache: Path) -> None:
    with LLM(folder / "artifact", threads=1) as llm, pytest.raises(RequestError, match="must be SamplingParams"):
        llm.generate("a", {"max_tokens": 3})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="this model is closed"):
        llm.generate("a")


def test_the_package_exports_nothing_else() -> None:
    assert set(forerun.__all__) <= set(dir(forerun))
    with pytest.raises(AttributeError, match="no attribute 'Llm'"):
        forerun.Llm  # noqa: B018


def test_without_parameters_answers_are_greedy_and_end(folder: Path) -> None:
    with LLM(folder / "artifact", threads=1, pa_num_blocks=16) as llm:
        (one,) = llm.generate("Hello")
        room = 128 - len(one.prompt_token_ids)
        (same,) = llm.generate("Hello", SamplingParams(temperature=0, max_tokens=room), use_tqdm=False)
        assert one.outputs[0].token_ids == same.outputs[0].token_ids
        assert len(one.outputs[0].token_ids) <= room
        (named,) = llm.generate(prompts=["Hello"], sampling_params=GREEDY, use_tqdm=False)
        assert len(named.outputs[0].token_ids) == 5
        (chat,) = llm.chat([{"role": "user", "content": "hi"}], sampling_params=GREEDY, use_tqdm=False)
        assert len(chat.outputs[0].token_ids) == 5


def test_the_default_length_is_bounded() -> None:
    with LLM(OracleExecutor(max_model_len=2000, num_blocks=500)) as llm:
        (one,) = llm.generate([1, 2, 3])
        assert len(one.outputs[0].token_ids) <= 256


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_new_tokens", "max_tokens"),
        ("do_sample", "temperature"),
        ("temprature", "temperature"),
        ("top_kk", "top_k"),
    ],
)
def test_near_misses_of_parameters(name: str, meant: str) -> None:
    with pytest.raises(ForerunError, match=f"no '{name}'.*did you mean '{meant}'"):
        SamplingParams(**{name: 1})


def test_the_version() -> None:
    assert forerun.__version__ == "0.1.0"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("wanted", "total", "shown"), [(True, 3, True), (True, 1, False), (False, 3, False)])
def test_several_answers_have_the_bar_of_all_commands(
    wanted: bool, total: int, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(bar, "_PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with answers_progress(wanted) as tell:
        tell(1, total)
    assert ("Answers" in terminal.getvalue()) == shown


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"threads": "2"}, "threads"), ({"threads": -1}, "threads"), ({"isa": 3}, "isa"), ({"pinned": 1}, "pinned")],
)
def test_settings_of_a_run_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said} must be "):
        LLM("default", **settings)
