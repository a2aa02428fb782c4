"""Answers of a given form: the same tokens however they are computed, and always of that form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from forerun.engine import CompletionOutput, Engine, RequestError, SamplingParams
from forerun.engine.request import Request
from forerun.engine.request_errors import NO_TOKEN
from forerun.grammar import GrammarError, Grammars, StructuredOutputsParams
from forerun.grammar.waiting import After
from forerun.runtime.reference.fused import ReferenceFused
from forerun.runtime.step import Executor, SamplingRows, StepInput, StepOutput, UInt32
from tests.engine.harness import EOS, ByteDetokenizer, QuietDrafter, ScriptedExecutor, run
from tests.speculation.test_model_drafter import FreeDrafts, config
from tests.support.native_models import native_executor
from tests.support.oracle import OracleExecutor
from tests.support.reference_models import one_sequence, tiny_model

VOCAB = 128
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": -5, "maximum": 500},
        "on": {"type": "boolean"},
        "of": {"type": "array", "items": {"enum": ["x", "yy", None]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["n", "on", "of"],
    "additionalProperties": False,
}
CALLS = {
    "type": "tags_with_separator",
    "tags": [
        {"begin": f'<c>{{"{name}": ', "content": {"type": "json_schema", "json_schema": schema}, "end": "}</c>"}
        for name, schema in (("f", SCHEMA), ("g", {"type": "object", "properties": {}, "additionalProperties": False}))
    ],
    "separator": ";",
    "at_least_one": True,
}
"""Forced calls of two tools."""
FORMS = {
    "json": StructuredOutputsParams(json=SCHEMA, disable_any_whitespace=True),
    "regex": StructuredOutputsParams(regex="[ab]{3}(c|dd){2,9}e?"),
    "choice": StructuredOutputsParams(choice=["yes", "no", "yes, but not yet"]),
    "grammar": StructuredOutputsParams(grammar='root ::= "(" root ")" | [0-9]+ "."'),
    "calls": StructuredOutputsParams(structural_tag={"format": CALLS}, disable_any_whitespace=True),
}
PROMPTS = {name: [7 * place + k for k in range(5 + place)] for place, name in enumerate(FORMS)}


class ByteVocabulary:
    """Token id = byte value; EOS is no text."""

    vocab_size = VOCAB
    eos_token_ids: Sequence[int] = (EOS,)
    special_token_ids: Sequence[int] = (EOS,)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


GRAMMARS = Grammars(ByteVocabulary(), VOCAB)


def engine(executor: Executor | None = None, **others: Any) -> Engine:
    return Engine(
        executor or OracleExecutor(max_model_len=400, num_blocks=400),
        eos_token_ids=(EOS,),
        detokenizer=lambda skip, context: ByteDetokenizer(),
        grammars=GRAMMARS,
        **others,
    )


def params(name: str, **others: Any) -> SamplingParams:
    return SamplingParams(
        **{"max_tokens": 60, "temperature": 1.0, "seed": 3, "logprobs": 2, "structured_outputs": FORMS.get(name)}
        | others
    )


def answer(asked: SamplingParams, prompt: Sequence[int] = (1, 2, 3), **others: Any) -> CompletionOutput:
    made = engine(**others)
    made.add("r", prompt, asked)
    return run(made)["r"].outputs[0]


def check(name: str, text: str) -> None:
    if name == "json":
        jsonschema.validate(json.loads(text), SCHEMA)
    elif name == "regex":
        assert re.fullmatch("[ab]{3}(c|dd){2,9}e?", text)
    elif name == "choice":
        assert text in ("yes", "no", "yes, but not yet")
    elif name == "calls":
        for call in re.findall(r"<c>(.*?)</c>(?:;|$)", text):
            (given,) = json.loads(call).items()
            jsonschema.validate(given[1], SCHEMA if given[0] == "f" else {"maxProperties": 0})
    else:
        inner = text.strip("()")
        assert inner[:-1].isdigit() and text == "(" * text.count("(") + inner + ")" * text.count("(")


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("name", FORMS)
def test_answers_have_their_form(name: str, temperature: float) -> None:
    ends = []
    for seed in range(12):
        found = answer(params(name, temperature=temperature, seed=seed, max_tokens=80), [seed, 1])
        ends.append(found.finish_reason)
        if found.finish_reason == "stop":
            check(name, found.text)
            assert found.stop_reason is None
    assert "stop" in ends and set(ends) <= {"stop", "length"}


class Guesses(QuietDrafter):
    """Guesses what the answers will be, now and then something else, and goes on past their ends."""

    def __init__(self, truths: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self._truths = truths

    def guess(self, request: Request) -> Sequence[int]:
        at = len(request.output)
        draft = [*self._truths[request.request_id][at : at + 3], EOS, ord("{")]
        if at % 5 == 4:
            draft[at % 3] = (draft[at % 3] + 1) % VOCAB
        return draft


MANNERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0.0, "logprobs": None},
    "drawn": {"temperature": 0.9, "logprobs": None},
    "adjusted": {
        "repetition_penalty": 1.3,
        "min_tokens": 4,
        "logit_bias": {ord("a"): 2.0},
        "bad_words_ids": [[ord("y")]],
    },
    "scored": {"prompt_logprobs": 2, "top_p": 0.9, "stop_token_ids": (ord("e"),)},
}


def answers(made: Engine, manner: str = "plain") -> dict[str, CompletionOutput]:
    """Of requests with a form and without."""
    for name, prompt in PROMPTS.items():
        made.add(name, prompt, params(name, **MANNERS[manner]))
        made.add(f"free {name}", prompt, params("free", **MANNERS[manner]))
    found = {name: output.outputs[0] for name, output in run(made).items()}
    made.check()
    return found


@pytest.mark.parametrize("manner", MANNERS)
def test_tokens_depend_on_nobody_and_on_no_way_to_compute_them(manner: str) -> None:
    own = MANNERS[manner]
    alone = {name: answer(params(name, **own), PROMPTS[name]) for name in FORMS}
    alone |= {f"free {name}": answer(params("free", **own), PROMPTS[name]) for name in FORMS}
    assert answers(engine(), manner) == alone
    tight = engine(OracleExecutor(num_blocks=30, block_size=4, max_rows=9, max_seqs=6, max_model_len=100))
    assert answers(tight, manner) == alone and tight.counters.preemptions > 0
    again = engine(OracleExecutor(num_blocks=400, block_size=2, max_model_len=400))
    assert answers(again, manner) == alone and answers(again, manner) == alone
    assert manner == "scored" or again.stats().prefix_hits > 0
    drafter = Guesses({name: output.token_ids for name, output in alone.items()})
    for executor in (None, OracleExecutor(num_blocks=40, block_size=4, max_rows=17, max_seqs=6, max_model_len=100)):
        drafting = engine(executor, drafter=drafter)
        assert answers(drafting, manner) == alone and drafting.counters.accepted_draft_tokens > 20


class Redrawing(OracleExecutor):
    """Masks a row only when it is asked again, as the native executor does."""

    redraws, cuts = 8, False
    redrawn = 0
    last: StepInput | None = None

    def step(self, batch: StepInput) -> StepOutput:
        self.last = batch
        return super().step(batch)

    def redraw(self, row: int, mask: UInt32) -> int:
        assert self.last is not None and self.last.sampling.keep_logits
        assert row not in self.last.sampling.mask_rows
        self.redrawn += 1
        rows = replace(self.last.sampling, mask_rows=np.array([row], np.int32), masks=mask[None])
        return int(super().step(replace(self.last, sampling=rows)).tokens[row])


@pytest.mark.parametrize("manner", ["greedy", "drawn"])
def test_masks_that_come_later_change_no_token(manner: str) -> None:
    """With as many answers as may be drawn again, with more, among others that need masks, in little memory."""
    own = MANNERS[manner]
    alone = {name: answer(params(name, **own), PROMPTS[name]) for name in FORMS}
    sizes = {"num_blocks": 30, "block_size": 4, "max_rows": 9, "max_seqs": 6, "max_model_len": 100}
    for limits in ({"num_blocks": 400, "max_model_len": 400}, sizes):
        executor = Redrawing(**limits)
        made = engine(executor)
        for name in FORMS:
            made.add(name, PROMPTS[name], params(name, **own))
            made.add(f"sampled {name}", PROMPTS[name], params(name))
        found = run(made)
        assert {name: found[name].outputs[0] for name in FORMS} == alone
        assert executor.redrawn > 5
        made.check()


def test_the_native_executor_draws_again_as_it_would_have_drawn() -> None:
    model = tiny_model("llama", seed=3)
    executor = native_executor(model, max_rows=40, head_rows=4)
    words, random = -(-executor.vocab_size // 32), np.random.default_rng(1)
    masks = [
        random.integers(0, 2**32, words, np.uint32) & random.integers(0, 2**32, words, np.uint32) for _ in range(20)
    ]
    rows = SamplingRows.greedy(2)
    rows.temperature[1], rows.seed[1] = 0.8, 77
    step = one_sequence([3, 1, 4], table=[0], sampled=[1, 2], sampling=rows, want_logits=False)
    keeping = replace(step, sampling=replace(rows, keep_logits=True))
    for row in (0, 1):
        for mask in [*masks, np.zeros(words, np.uint32)]:
            masked = replace(rows, mask_rows=np.array([row], np.int32), masks=mask[None])
            expected = executor.step(replace(step, sampling=masked)).tokens[row]
            assert executor.step(keeping).tokens.tolist() == executor.step(step).tokens.tolist()
            executor.step(keeping)
            assert executor.redraw(row, mask) == expected
    for wrong, mask in ((2, masks[0]), (-1, masks[0]), (0, masks[0][:-1])):
        with pytest.raises(ValueError, match="redraw"):
            executor.redraw(wrong, mask)
    executor.step(step)
    with pytest.raises(ValueError, match="kept no logits"):
        executor.redraw(0, masks[0])
    many = one_sequence(list(range(5)), table=[0], sampling=replace(SamplingRows.greedy(5), keep_logits=True))
    executor.step(many)  # more than the LM head serves together
    with pytest.raises(ValueError, match="kept no logits"):
        executor.redraw(0, masks[0])
    executor.close()


@pytest.mark.parametrize("manner", ["plain", "greedy", "drawn"])
def test_threads_batches_and_memory_on_the_native_executor(manner: str) -> None:
    own = MANNERS[manner]
    model = tiny_model("llama", seed=3)
    sizes: dict[str, Any] = {"num_blocks": 60, "block_size": 16, "max_model_len": 128, "max_rows": 40}
    vocab_size = model.program().vocab_size
    grammars = Grammars(ByteVocabulary(), vocab_size)

    def on(**others: Any) -> Engine:
        executor = native_executor(model, **{**sizes, **others})
        return Engine(executor, eos_token_ids=(EOS,), detokenizer=lambda *_: ByteDetokenizer(), grammars=grammars)

    alone: dict[str, CompletionOutput] = {}
    for name, prompt in PROMPTS.items():
        made = on(threads=1)
        made.add(name, prompt, params(name, **own))
        made.add(f"free {name}", prompt, params("free", **own))
        alone |= {name: output.outputs[0] for name, output in run(made).items()}
    for threads in (1, 2, 3):
        assert answers(on(threads=threads), manner) == alone
        tight = on(threads=threads, num_blocks=10, max_rows=9, max_seqs=6)
        assert answers(tight, manner) == alone and tight.counters.preemptions > 0
    for name in FORMS:
        if alone[name].finish_reason == "stop":
            check(name, alone[name].text)


class Marked(ScriptedExecutor):
    """Draws what masks leave of its script; the oracle's own token where they leave nothing of it."""

    def step(self, batch: StepInput) -> StepOutput:
        output = OracleExecutor.step(self, batch)
        masks = dict(zip(batch.sampling.mask_rows.tolist(), batch.sampling.masks, strict=True))
        for row, at in enumerate(batch.positions[batch.sample_rows]):
            wanted = self._script[min(int(at) + 1 - self._prompt, len(self._script) - 1)] or 0
            if row not in masks or masks[row][wanted // 32] >> np.uint32(wanted % 32) & 1:
                output.tokens[row] = wanted
        return output


@pytest.mark.parametrize("drafts", [False, True])
def test_a_form_may_begin_behind_a_marker(drafts: bool) -> None:
    form = After(GRAMMARS.compile(FORMS["choice"]), [ord("/"), ord("t")])
    script = [ord(letter) for letter in "h/m\0z/tno"]
    texts = []
    for drafter in (None, Guesses({"r": script})) if drafts else (None,):
        made = engine(Marked(script, vocab_size=VOCAB), drafter=drafter)
        admitted = made.admission.check([1], params("free", temperature=0, logprobs=None), form)
        made.enqueue(made.admission.requests(admitted, "r", 0.0))
        found = run(made)["r"].outputs[0]
        texts.append(found.text)
        assert found.finish_reason == "stop" and EOS not in found.token_ids
        assert found.text[:3] == "h/m" and found.text.endswith("z/tno") and len(found.token_ids) == 9
    assert len(set(texts)) == 1


def test_drafts_end_where_they_leave_the_form() -> None:
    form = FORMS["choice"]
    drafter = Guesses({"r": [ord(letter) for letter in "yes!"]})
    made = engine(drafter=drafter)
    made.add("r", [1], params("choice", structured_outputs=form, logit_bias={ord("n"): -100.0}))
    found = run(made)["r"].outputs[0]
    assert found.text.startswith("yes") and made.counters.draft_tokens == 2, "of e, s, !, and the rest"


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("limits", [{}, {"num_blocks": 40, "block_size": 4, "max_rows": 17, "max_seqs": 6}])
def test_a_draft_model_draws_with_the_masks(fused: bool, limits: dict[str, int]) -> None:
    """It is the target's own model, so every draft is right if it sees the masks that the target sees."""
    sizes = {"max_model_len": 100, **limits}
    alone = answers(engine(OracleExecutor(**sizes)))
    draft, target = OracleExecutor(**sizes), OracleExecutor(**sizes)
    both = ReferenceFused(target, draft) if fused else None
    drafting = engine(both or target, drafter=FreeDrafts(draft, config(3), VOCAB, both))
    assert answers(drafting) == alone
    tried, right = drafting.counters.draft_tokens, drafting.counters.accepted_draft_tokens
    assert right > 40 and tried - right <= len(alone) * 4, "but for what was drafted past the ends"


def test_every_answer_of_several_and_of_a_search_has_the_form() -> None:
    made = engine()
    made.add("n", [5], params("regex", n=5))
    made.add("search", [5], params("choice", n=3, use_beam_search=True, logprobs=None))
    texts: dict[tuple[str, int], str] = {}
    while made.busy:
        for delta in made.step():
            key = (delta.request_id, delta.index)
            texts[key] = texts.get(key, "") + delta.text
            assert delta.finish_reason in (None, "stop")
    assert len(texts) == 8
    for (name, _), text in texts.items():
        check("regex" if name == "n" else "choice", text)
    assert sorted(text for (name, _), text in texts.items() if name == "search") == ["no", "yes", "yes, but not yet"]


def test_ends_come_exactly_where_the_form_is_complete() -> None:
    for name in FORMS:
        complete = answer(params(name, ignore_eos=True, max_tokens=90))
        assert EOS not in complete.token_ids
    bias = {EOS: 100.0}
    check("regex", answer(params("regex", logit_bias=bias)).text)
    assert answer(params("choice", logit_bias={**bias, ord("n"): -100.0})).text == "yes"
    longer = answer(params("choice", logit_bias={**bias, ord("n"): -100.0}, min_tokens=5))
    assert longer.text == "yes, but not yet"
    assert answer(params("choice", logit_bias={ord("y"): -100.0}, min_tokens=30)).text == "no", "nothing can follow"
    stop = answer(params("choice", stop_token_ids=[ord(",")], logit_bias={ord("n"): -100.0, ord(","): 100.0}))
    assert (stop.text, stop.stop_reason) == ("yes", ord(","))
    cut = answer(params("choice", stop="es", logit_bias={ord("n"): -100.0}))
    assert (cut.text, cut.finish_reason, cut.stop_reason) == ("y", "stop", "es"), "stop strings count anywhere"
    early = answer(params("choice", stop_token_ids=[ord("s")]))
    assert early.text == "no" or early.finish_reason == "error"


def test_log_probabilities_are_those_of_what_may_come() -> None:
    scores = answer(params("choice", logprobs=3)).logprobs
    assert scores is not None
    assert {token for token, _ in scores[0].top if token >= 0} >= {ord("n"), ord("y")}
    assert scores[1].logprob == 0.0 and scores[1].top[0][0] == scores[1].token_id


def test_parameters_that_leave_nothing_are_said_to() -> None:
    found = answer(params("choice", allowed_token_ids=[ord("q")]))
    assert (found.finish_reason, found.error) == ("error", NO_TOKEN)
    made = engine()
    made.add("good", [1], params("choice"))
    made.add("bad", [1], params("choice", bad_words_ids=[[ord("n")], [ord("y")]]))
    ended = {name: output.outputs[0].finish_reason for name, output in run(made).items()}
    assert ended == {"good": "stop", "bad": "error"}


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"json": {"type": "nonsense"}}, "nonsense"),
        ({"json": {"type": "integer", "minimum": 5, "maximum": 4}}, "minimum"),
        ({"json": False}, "json"),
        ({"regex": "("}, "regex"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"grammar": "root = 5"}, "grammar"),
        ({"grammar": 'start: a "x"\na: a "y"'}, "form"),
        ({"regex": ""}, "non-empty"),
    ],
)
def test_forms_that_no_answer_can_have_are_refused(form: Mapping[str, Any], words: str) -> None:
    with pytest.raises((RequestError, GrammarError), match=words) as caught:
        engine().add("r", [1], replace(params("free"), structured_outputs=StructuredOutputsParams(**form)))
    assert "\n" not in str(caught.value)


def test_without_a_vocabulary_every_form_is_refused() -> None:
    made = Engine(OracleExecutor())
    with pytest.raises(RequestError, match="structured output needs a tokenizer"):
        made.add("r", [1], params("choice"))


def test_parameters_take_a_mapping_too_and_know_older_names() -> None:
    assert SamplingParams(structured_outputs={"choice": ["a"]}) == SamplingParams(
        structured_outputs=StructuredOutputsParams(choice=["a"])
    )
    for wrong, words in (
        ({"structured_outputs": {"choices": ["a"]}}, "did you mean 'choice'"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "together"),
        ({"structured_outputs": "json"}, "must be StructuredOutputsParams"),
        ({"guided_decoding": None}, "did you mean 'structured_outputs'"),
    ):
        with pytest.raises(RequestError, match=words) as caught:
            SamplingParams(**wrong)
        assert caught.value.param in ("structured_outputs", "guided_decoding")
