"""Over HTTP, a request's tokens and log-probabilities are its own: cache, neighbours, the cuts of its prompt and
preemption change no bit of them. The models are real and run on the native executor."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.compiler.artifact import Artifact, open_artifact
from forerun.compiler.compile import compile_checkpoint
from forerun.config import NeuronConfig
from forerun.engine import EngineSettings
from forerun.runtime.loader import RunSettings, open_executor
from forerun.runtime.step import Executor, StepInput, StepOutput
from tests.server.harness import Running, events, running
from tests.support.default_model import require_default_model
from tests.support.tiny_checkpoints import write_tiny

REQUESTS = 9
BLOCK = 16
SHARED = 5 * BLOCK + 3
"""Prompt tokens that all requests have in common."""
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"quantized": True, "quantization_dtype": "int8"},
    "qwen3": {"kv_cache_quant": True},
    "default": {},
}
DRAWS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.95, "seed": 11},
    {"temperature": 0.7, "top_k": 40, "seed": 5, "presence_penalty": 0.5, "repetition_penalty": 1.2},
)


@pytest.fixture(scope="module", params=MODELS)
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "default":
        require_default_model()
        source = "default"
    else:
        source = str(write_tiny(folder / "model", request.param))
    settings = {"seq_len": 256, "batch_size": REQUESTS, "pa_block_size": BLOCK, **MODELS[request.param]}
    compile_checkpoint(open_checkpoint(source), NeuronConfig.from_dict(settings), folder / "artifact")
    return open_artifact(folder / "artifact")


class Held:
    """An executor that runs only while ``gate`` is set."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.gate = threading.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def step(self, batch: StepInput) -> StepOutput:
        self.gate.wait()
        return self._executor.step(batch)


@contextmanager
def serving(
    artifact: Artifact, *, blocks: int = 256, threads: int = 2, **settings: Any
) -> Iterator[tuple[Running, Held]]:
    config = NeuronConfig.from_dict(artifact.neuron_config.to_dict() | {"pa_num_blocks": blocks})
    executor = Held(open_executor(artifact, config, RunSettings(threads=threads, max_rows=256)))
    tokenizer = Tokenizer(artifact.tokenizer_files())
    with running(executor, engine_settings=EngineSettings(**settings), config=config, tokenizer=tokenizer) as server:
        yield server, executor


def bodies(vocab_size: int = 259) -> list[dict[str, Any]]:
    """Requests with a common beginning, endings of different lengths, and every way to draw."""
    rng = np.random.default_rng(3)
    common = rng.integers(3, vocab_size, SHARED).tolist()
    return [
        {
            "prompt": common + rng.integers(3, vocab_size, 5 + 4 * number).tolist(),
            "max_tokens": 26 + number,
            "logprobs": 4,
            "return_token_ids": True,
            "ignore_eos": True,
            **DRAWS[number % len(DRAWS)],
        }
        for number in range(REQUESTS)
    ]


def ask(server: Running, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The whole choice, and how many tokens came from the cache."""
    answer = server.complete(**body)
    (choice,) = answer["choices"]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["token_logprobs"]) == body["max_tokens"]
    return choice, answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def alone(server: Running) -> list[tuple[dict[str, Any], int]]:
    return [ask(server, body) for body in bodies()]


def together(server: Running, held: Held) -> list[tuple[dict[str, Any], int]]:
    """All requests; nothing runs before the last is there."""
    held.gate.clear()
    with ThreadPoolExecutor(REQUESTS) as pool:
        answers = [pool.submit(ask, server, body) for body in bodies()]
        while server.service.engine.unfinished < REQUESTS and not any(answer.done() for answer in answers):
            time.sleep(0.002)
        held.gate.set()
        return [answer.result() for answer in answers]


def choices(answers: list[tuple[dict[str, Any], int]]) -> list[dict[str, Any]]:
    return [choice for choice, _ in answers]


@pytest.fixture(scope="module")
def expected(artifact: Artifact) -> list[dict[str, Any]]:
    """Every request alone on a server without a cache, on one thread."""
    with serving(artifact, threads=1, enable_prefix_caching=False) as (server, _):
        answers = alone(server)
        assert all(cached == 0 for _, cached in answers)
        return choices(answers)


def test_cold_warm_and_among_others(artifact: Artifact, expected: list[dict[str, Any]]) -> None:
    with serving(artifact) as (server, held):
        cold = alone(server)
        assert [cached for _, cached in cold] == [0] + [SHARED // BLOCK * BLOCK] * (REQUESTS - 1)
        assert choices(cold) == expected
        warm = alone(server)
        assert all(found >= before for (_, found), (_, before) in zip(warm, cold, strict=True))
        assert sum(cached for _, cached in warm) > sum(cached for _, cached in cold)
        assert choices(warm) == expected
        before = server.service.engine.stats().counters
        assert choices(together(server, held)) == expected
        after = server.service.engine.stats().counters
        assert after.generation_tokens - before.generation_tokens > 2 * (after.steps - before.steps), "not together"


@pytest.mark.parametrize("caching", [True, False])
def test_among_others_from_the_start_with_prompts_in_pieces(
    artifact: Artifact, expected: list[dict[str, Any]], caching: bool
) -> None:
    with serving(artifact, enable_prefix_caching=caching, max_num_batched_tokens=29) as (server, held):
        assert choices(together(server, held)) == expected


@pytest.mark.parametrize("caching", [True, False])
def test_preempted(artifact: Artifact, expected: list[dict[str, Any]], caching: bool) -> None:
    with serving(artifact, blocks=24, enable_prefix_caching=caching) as (server, held):
        for _ in range(2):
            assert choices(together(server, held)) == expected
        server.wait_idle()
        assert server.service.engine.stats().counters.preemptions > 0


def test_a_stream_says_the_same(artifact: Artifact, expected: list[dict[str, Any]]) -> None:
    with serving(artifact) as (server, _):
        for body, whole in zip(bodies()[:3], expected, strict=False):
            found = [event["choices"][0] for event in events(server.post("/v1/completions", **body, stream=True).text)]
            assert "".join(choice["text"] for choice in found) == whole["text"]
            ids = [token for choice in found for token in choice.get("token_ids") or []]
            parts = [choice["logprobs"] for choice in found if choice["logprobs"]]
            assert ids == whole["token_ids"]
            for name in ("token_logprobs", "top_logprobs", "tokens"):
                assert [value for part in parts for value in part[name]] == whole["logprobs"][name]
