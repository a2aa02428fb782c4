"""What engine tests share: a byte tokenizer, executors that misbehave on demand, and ways to run to the end."""

from __future__ import annotations

import asyncio
import codecs
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from forerun.engine import AsyncEngine, Delta, Engine, RequestOutput, SamplingParams
from forerun.engine.request import Request
from forerun.runtime.step import DraftRows, StepInput, StepOutput
from tests.support import oracle
from tests.support.oracle import Draw, OracleExecutor

EOS = 0
GREEDY = SamplingParams(temperature=0, max_tokens=6)


class ByteDetokenizer:
    """Token id = byte value; ids above 255 and EOS give nothing."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return "" if token == EOS or token > 255 else self._decoder.decode(bytes([token]))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    eos_token_ids: Sequence[int] = (EOS,)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def detokenizer(self, skip_special_tokens: bool, context: Sequence[int] = ()) -> ByteDetokenizer:
        return ByteDetokenizer()


class ScriptedExecutor(OracleExecutor):
    """Draws ``script[i]`` as the i-th token after a prompt of ``prompt`` tokens; None: values not finite."""

    def __init__(self, script: Sequence[int | None], prompt: int = 1, **limits: int) -> None:
        super().__init__(**{"vocab_size": 257, **limits})
        self._script = script
        self._prompt = prompt

    def step(self, batch: StepInput) -> StepOutput:
        output = super().step(batch)
        for row, at in enumerate(batch.positions[batch.sample_rows]):
            token = self._script[int(at) + 1 - self._prompt]
            output.tokens[row] = -1 if token is None else token
        return output


class FaultyExecutor(OracleExecutor):
    """Calls ``before(step number, batch)`` first, which may raise, and lets ``after`` change the output."""

    def __init__(
        self,
        before: Callable[[int, StepInput], None] = lambda number, batch: None,
        after: Callable[[int, StepInput, StepOutput], StepOutput] = lambda number, batch, output: output,
        **limits: int,
    ) -> None:
        super().__init__(**limits)
        self._before, self._after, self.steps = before, after, 0

    def step(self, batch: StepInput) -> StepOutput:
        self.steps += 1
        self._before(self.steps, batch)
        return self._after(self.steps, batch, super().step(batch))


class QuietDrafter:
    """A drafter by what it guesses for one request; it does not care about what it is told."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []  # the lengths that were granted, step by step

    def guess(self, request: Request) -> Sequence[int]:
        """Tokens that may follow."""
        raise NotImplementedError

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Sequence[int]:
        return [len(self.guess(request)) for request in requests]

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        self.calls.append(list(lengths))
        return [self.guess(request)[:length] for request, length in zip(requests, lengths, strict=True)]

    def in_step(self, places: Mapping[Request, int]) -> DraftRows | None:
        return None

    def computed(self, request: Request, start: int, rows: int) -> None: ...

    def fill(self) -> None: ...

    def close(self) -> None: ...

    def verified(self, request: Request, proposed: int, accepted: int) -> None: ...

    def stepped(self, rows: int, tokens: int, seconds: float) -> None: ...

    def preempted(self, request: Request) -> None: ...

    def ended(self, request: Request) -> None: ...


def run(engine: Engine, max_steps: int = 2000) -> dict[str, RequestOutput]:
    """Step until nothing is left; the outputs by request id (answer 0 only)."""
    outputs: dict[str, RequestOutput] = {}
    for _ in range(max_steps):
        if not engine.busy:
            return outputs
        collect(outputs, engine.step())
    raise AssertionError(f"{engine.unfinished} requests are still unfinished")


def collect(outputs: dict[str, RequestOutput], news: list[Delta]) -> None:
    """Add deltas to ``outputs``; an answer must not have news after its end."""
    for delta in news:
        output = outputs.setdefault(delta.request_id, RequestOutput.empty(delta.request_id, None, [], 1))
        assert not output.finished, f"news of {delta.request_id} after its end"
        output.add(delta)


class Predict(Protocol):
    """Tokens that an oracle draws after a prompt; see ``tests.support.oracle.predict``."""

    def __call__(
        self,
        prompt: Sequence[int],
        count: int,
        vocab_size: int,
        draw: Draw | None = None,
        adjust: Callable[[list[int]], Mapping[int, tuple[float, float]]] = ...,
        allowed: Sequence[int] = (),
    ) -> list[int]: ...


def expected(
    prompt: Sequence[int],
    params: SamplingParams,
    vocab_size: int,
    eos: Sequence[int] = (EOS,),
    predict: Predict = oracle.predict,
) -> list[int]:
    """The tokens that ``params`` must give after ``prompt`` on the oracle, written independently of the engine."""
    assert params.max_tokens is not None
    ends = set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos))

    def adjust(output: list[int]) -> Mapping[int, tuple[float, float]]:
        changes: dict[int, tuple[float, float]] = {}
        for token in range(vocab_size):
            count = output.count(token)
            add = params.logit_bias.get(token, 0.0)
            add -= params.frequency_penalty * count + (params.presence_penalty if count else 0.0)
            rep = params.repetition_penalty if count or token in prompt else 1.0
            completes = any(
                word[-1] == token and output[len(output) - len(word) + 1 :] == list(word[:-1])
                for word in params.bad_words_ids
                if len(word) - 1 <= len(output)
            )
            if completes or (token in ends and len(output) < params.min_tokens):
                add = -np.inf
            if (add, rep) != (0.0, 1.0):
                changes[token] = (add, rep)
        return changes

    draw = Draw(params.temperature, params.top_k, params.top_p, params.min_p, (params.seed or 0) % 2**64)
    if params.temperature == 0:
        draw = Draw()
    tokens = predict(prompt, params.max_tokens, vocab_size, draw, adjust, params.allowed_token_ids or ())
    for place, token in enumerate(tokens):
        if token in ends and place >= params.min_tokens:
            return tokens[: place + 1]
    return tokens


class Gate:
    """Lets steps pass only while it is open."""

    def __init__(self, open_at_first: bool = False) -> None:
        self.event = threading.Event()
        self.entered = threading.Event()
        if open_at_first:
            self.event.set()

    def __call__(self, number: int, batch: StepInput) -> None:
        self.entered.set()
        self.event.wait()


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def tokens_of(engine: AsyncEngine, prompt: list[int], params: SamplingParams = GREEDY) -> list[int]:
    return [token async for delta in engine.generate(prompt, params) for token in delta.token_ids]
