"""Token matching and logit matching of a whole model, against references made here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forerun.accuracy.checks import CheckOptions, CheckOutcome, answer_length, check_accuracy, check_ids, match_logits
from forerun.accuracy.golden import Golden, save_golden
from forerun.accuracy.reference import Answer
from forerun.accuracy.rollout import rollout
from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.config import NeuronConfig
from forerun.errors import AccuracyError, ConfigError
from tests.support.reference_models import TinyModel, tiny_model
from tests.support.tiny_checkpoints import write_tiny

MODEL = tiny_model("llama", seed=1, num_hidden_layers=1)
PROMPTS = [[5, 9, 30, 2, 7], [40, 41], [5, 9, 30, 2, 7]]


@dataclass
class FromExecutor:
    """A reference whose answers another executor gives; ``asked`` counts them."""

    model: TinyModel
    name: str = "another run"
    asked: list[int] = field(default_factory=list)

    def answer(
        self, number: int, prompt_ids: Sequence[int], steps: int, end_ids: Collection[int], want_logits: bool
    ) -> Answer:
        self.asked.append(number)
        drawn = list(rollout(self.model.executor(), [prompt_ids], [steps], end_ids=end_ids))
        logits = np.stack([each.logits for each in drawn if each.logits is not None]) if want_logits else None
        tokens = np.asarray([each.token for each in drawn], np.int32)
        return Answer(np.asarray(prompt_ids, np.int32), tokens, logits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model"), "llama", seed=1, num_hidden_layers=1)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def options(mode: str, **changes: Any) -> CheckOptions:
    return CheckOptions(mode, **({"max_length": 64, "num_tokens": 6} | changes))


def shaken(by: float) -> TinyModel:
    """The model with a little noise in its last norm."""
    tensors = dict(MODEL.tensors)
    noise = np.random.default_rng(0).normal(0, by, tensors["model.norm.weight"].shape)
    tensors["model.norm.weight"] = (tensors["model.norm.weight"] * (1 + noise)).astype(np.float32)
    return TinyModel(MODEL.config, tensors)


@pytest.mark.parametrize("mode", ["token-matching", "logit-matching"])
def test_a_model_matches_itself(mode: str, tokenizer: Tokenizer) -> None:
    reference = FromExecutor(MODEL)
    outcome = check_ids(MODEL.executor(), tokenizer, PROMPTS, options(mode), reference)
    assert outcome.passed and "passed" in outcome.report
    assert reference.asked == [0, 1]  # equal prompts are answered once


def test_logits_within_and_beyond_the_tolerances(tokenizer: Tokenizer) -> None:
    reference = FromExecutor(MODEL)
    assert check_ids(shaken(1e-4).executor(), tokenizer, PROMPTS, options("logit-matching"), reference).passed
    outcome = check_ids(shaken(0.3).executor(), tokenizer, PROMPTS, options("logit-matching"), reference)
    assert not outcome.passed and outcome.report.startswith("Logit matching failed")
    loose = options("logit-matching", tolerances={None: (1e-5, 5.0)}, divergence_difference=100.0)
    assert check_ids(shaken(0.3).executor(), tokenizer, PROMPTS, loose, reference).passed


def test_the_expected_tokens_go_on_after_a_divergence() -> None:
    """With other weights the tokens part at once; every later step still compares what follows the same prefix."""
    answer = FromExecutor(MODEL).answer(0, PROMPTS[0], 6, (), True)
    other = shaken(2.0)
    results = match_logits(other.executor(), [answer], options("logit-matching"))
    assert [result.step for result in results] == list(range(6))
    assert any(result.actual_token != result.expected_token for result in results[:-1])
    tokens = answer.tokens.tolist()
    for result in results:
        drawn = next(rollout(other.executor(), [PROMPTS[0] + tokens[: result.step]], [1]))
        assert result.actual_token == drawn.token


def test_different_tokens_are_shown(tokenizer: Tokenizer) -> None:
    outcome = check_ids(shaken(2.0).executor(), tokenizer, PROMPTS, options("token-matching"), FromExecutor(MODEL))
    assert not outcome.passed
    assert "Actual:   (forerun) [" in outcome.report and "Expected: (another run) [" in outcome.report


def test_an_answer_that_should_have_ended_is_a_difference(tokenizer: Tokenizer) -> None:
    """The reference stops where the model goes on: that shows, unless the reference was cut by its length alone."""
    own = FromExecutor(MODEL).answer(0, PROMPTS[0], 6, (), False)
    end = tokenizer.eos_token_ids[0]
    assert end not in own.tokens
    stopped = Answer(own.prompt_ids, np.append(own.tokens[:3], np.int32(end)).astype(np.int32), None)
    cut = Answer(own.prompt_ids, own.tokens[:3], None)
    for answer, passed in ((stopped, False), (cut, True)):
        golden = Golden((answer,))
        assert check_ids(MODEL.executor(), tokenizer, PROMPTS[:1], options("token-matching"), golden).passed is passed


def test_how_much_is_checked() -> None:
    executor = MODEL.executor(max_model_len=40)
    assert answer_length(0, [1] * 30, executor, options("token-matching", num_tokens=None)) == 10
    assert answer_length(0, [1] * 30, executor, options("token-matching", num_tokens=3)) == 3
    assert answer_length(0, [1] * 30, executor, options("token-matching", max_length=32)) == 2
    for ids in ([], [1] * 40):
        with pytest.raises(AccuracyError, match=f"prompt 4 has {len(ids)} tokens; from 1 to 39 can be checked"):
            answer_length(4, ids, executor, options("token-matching"))


@pytest.mark.parametrize(
    ("tokens", "columns", "message"),
    [
        ([], 0, "answer to prompt 0 is empty"),
        ([9999], 0, "holds token 9999, the model has"),
        ([3], 7, "logits of 7 tokens, the model of"),
        ([3], 0, "no logits for prompt 0"),
    ],
)
def test_references_that_do_not_fit(tokens: list[int], columns: int, message: str, tokenizer: Tokenizer) -> None:
    logits = np.zeros((len(tokens), columns), np.float32) if columns else None
    mode = "token-matching" if tokens != [3] else "logit-matching"
    golden = Golden((Answer(np.asarray(PROMPTS[0], np.int32), np.asarray(tokens, np.int32), logits),))
    with pytest.raises(AccuracyError, match=message):
        check_ids(MODEL.executor(), tokenizer, PROMPTS[:1], options(mode), golden)


def test_modes_without_a_check(tokenizer: Tokenizer) -> None:
    with pytest.raises(AccuracyError, match="checks a draft model"):
        check_ids(MODEL.executor(), tokenizer, PROMPTS, options("draft-logit-matching"), FromExecutor(MODEL))
    with pytest.raises(AccuracyError, match="'x' is unknown; known: token-matching, logit-matching"):
        check_ids(MODEL.executor(), tokenizer, PROMPTS, options("x"), FromExecutor(MODEL))


def check_texts(folder: Path, tokenizer: Tokenizer, golden: Path | None, **settings: int) -> CheckOutcome:
    """``check_accuracy`` as a command line asks for it."""
    config = NeuronConfig.from_dict({"seq_len": 64, **settings})
    asked = CheckOptions("logit-matching", config.max_length, 4, {5: (1e-5, 0.01)})
    return check_accuracy(MODEL.executor(), tokenizer, config, ["hello there"], asked, str(folder), golden)


def test_from_texts_and_a_saved_reference(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    ids = tokenizer.encode("hello there")
    answer = FromExecutor(MODEL).answer(0, ids, 5, (), True)
    path = tmp_path / "golden.npz"
    save_golden(path, Golden((answer,), open_checkpoint(str(folder)).fingerprint))
    outcome = check_texts(folder, tokenizer, path)
    assert outcome.passed and "Logit matching passed: 4 steps of 1 prompts" in outcome.report
    with pytest.raises(ConfigError, match="longer than max_context_length"):
        check_texts(folder, tokenizer, path, seq_len=8, max_context_length=3)
    save_golden(path, Golden((answer,), "another fingerprint"))
    with pytest.raises(AccuracyError, match="another checkpoint"):
        check_texts(folder, tokenizer, path)


def test_without_torch_one_line_names_the_extra(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(AccuracyError, match=r"transformers, which is not installed: pip install forerun\[parity\]"):
        check_texts(folder, tokenizer, None)
