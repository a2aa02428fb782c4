"""The exactness matrix on the default model, through a compiled artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forerun import _native
from forerun.checkpoint import open_checkpoint
from forerun.compiler.artifact import Artifact, open_artifact
from forerun.compiler.compile import compile_checkpoint
from forerun.config import NeuronConfig
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.weights import map_weights
from tests.numerics.ways import Trace, alone, assert_same, scattered, together
from tests.support.default_model import require_default_model

TEXT = (
    "The capital of France is Paris. The river that runs through it is the Seine, and the city has been a centre of "
    "trade, learning and government since the Middle Ages. Count: 1, 2, 3, 5, 8, 13, 21, 34. def add(a, b): return a"
)
Start = Callable[..., NativeExecutor]
FORMATS = ("own", "int8", "bfloat16")


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """The default model compiled in one format."""
    path = require_default_model()
    settings = {
        "own": {},
        "int8": {"quantized": True, "quantization_type": "per_channel_symmetric"},
        "bfloat16": {"torch_dtype": "bfloat16"},
    }
    made: dict[str, Artifact] = {}

    def make(form: str) -> Artifact:
        if form not in made:
            folder: Path = tmp_path_factory.mktemp("default") / form
            config = NeuronConfig.from_dict({"seq_len": 512, "batch_size": 4, **settings[form]})
            compile_checkpoint(open_checkpoint(str(path)), config, folder)
            made[form] = open_artifact(folder, verify=False)
        return made[form]

    return make


@pytest.fixture
def start_default(artifact_of: Callable[[str], Artifact]) -> Iterator[Start]:
    """Starts executors of a format; closed at the end."""
    started: list[NativeExecutor] = []

    def make(form: str, **changes: object) -> NativeExecutor:
        artifact = artifact_of(form)
        options = {"num_blocks": 24, "max_model_len": 512, "max_sample_rows": 512, **changes}
        weights = map_weights(artifact, artifact.program)
        started.append(NativeExecutor(artifact.program, weights, NativeOptions(**options)))  # type: ignore[arg-type]
        return started[-1]

    yield make
    for executor in started:
        executor.close()


@pytest.fixture(scope="module")
def ids(artifact_of: Callable[[str], Artifact]) -> list[int]:
    from forerun.checkpoint.tokenizer import Tokenizer

    return Tokenizer(artifact_of("own").tokenizer_files()).encode(TEXT)


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("form", FORMATS)
def test_matrix(form: str, kv_dtype: str, ids: list[int], start_default: Start) -> None:
    """Threads, instruction sets, pieces, company: tokens, log-probabilities and logits bit by bit."""
    plain = start_default(form, kv_dtype=kv_dtype)
    expected = alone(plain, ids)
    highest, lower = _native.usable_isas()[-1], _native.usable_isas()[-2:][0]
    for threads, isa, piece in [(2, highest, 64), (1, lower, 7), (2, highest, 1)]:
        executor = start_default(form, kv_dtype=kv_dtype, threads=threads, isa=isa)
        trace = alone(executor, ids, piece=piece, table=scattered(executor, len(ids)))
        assert_same(trace, expected, f"{threads} threads, {isa}, pieces of {piece}")
    executor = start_default(form, kv_dtype=kv_dtype, threads=2)
    tables = [[0, 1, 2], [9, 8, 7], [3]]
    traces = together(executor, [ids, ids[5:], ids[:20]], tables, [10, 33, 1])
    assert_same(traces[0], expected, "beside others")


def test_portable_kernels(ids: list[int], start_default: Start) -> None:
    """The slowest instruction set on the model's own format, a short prompt."""
    expected = alone(start_default("own", threads=2), ids[:12])
    assert_same(alone(start_default("own", threads=2, isa="portable"), ids[:12]), expected)


def test_the_capital_of_france(artifact_of: Callable[[str], Artifact], start_default: Start) -> None:
    """The bits belong to a model that answers."""
    from forerun.checkpoint.tokenizer import Tokenizer

    tokenizer = Tokenizer(artifact_of("own").tokenizer_files())
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(prompt), add_special_tokens=False)
    executor = start_default("own", threads=2)
    for _ in range(10):
        trace: Trace = alone(
            executor, [*ids, 0]
        )  # greedy at positions that are multiples of 4: read the logits instead
        ids.append(int(trace.logits.view("float32")[len(ids) - 1].argmax()))
    assert "Paris" in tokenizer.decode(ids[-10:])
