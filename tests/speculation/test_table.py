"""The table of frequent continuations: counting, the file, and files that are none."""

from __future__ import annotations

import io
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forerun._native import SUFFIX_BUCKETS, SuffixIndex, suffix_draft
from forerun.engine import Engine, EngineSettings, SamplingParams
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.table import ORDER, ContinuationTable, learn_table, load_table
from forerun.errors import ConfigError
from tests.engine.harness import ScriptedExecutor, run

STREAMS = [np.array(stream, np.int32) for stream in ([1, 2, 3, 1, 2, 4, 1, 2, 3], [5, 1, 2, 3, 3], [6], [])]


def by_hand(streams: list[Any]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Most frequent continuation, the smaller token on ties, and how often anything followed."""
    follows: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for stream in streams:
        for at in range(1, len(stream)):
            for order in range(1, min(ORDER, at) + 1):
                follows[tuple(stream[at - order : at].tolist())][int(stream[at])] += 1
    return {
        context: (min(counts, key=lambda token: (-counts[token], token)), counts.total())
        for context, counts in follows.items()
        if counts.total() > 1
    }


def as_dict(table: ContinuationTable) -> dict[tuple[int, ...], tuple[int, int]]:
    return {
        tuple(token for token in context if token >= 0): (best, follow)
        for context, best, follow in zip(
            table.contexts.tolist(), table.best.tolist(), table.follow.tolist(), strict=True
        )
    }


def test_the_table_is_what_counting_gives() -> None:
    assert as_dict(learn_table(STREAMS, 10)) == by_hand(STREAMS)
    draw = np.random.default_rng(2)
    streams = [draw.integers(0, 5, draw.integers(0, 80)).astype(np.int32) for _ in range(30)]
    assert as_dict(learn_table(streams, 5)) == by_hand(streams)
    assert len(learn_table([], 5).best) == 0


def test_a_file_gives_the_same_table(tmp_path: Path) -> None:
    table = learn_table(STREAMS, 10, "print")
    (tmp_path / "table.npz").write_bytes(table.to_bytes())
    again = load_table(tmp_path / "table.npz")
    assert (again.vocab_size, again.vocabulary) == (10, "print")
    for name in ("contexts", "best", "count", "follow"):
        assert np.array_equal(getattr(again, name), getattr(table, name))
    own = SuffixIndex(8, 100)
    own.extend(np.array([9, 1, 2], np.int32))
    chances, scales = np.ones(3 * SUFFIX_BUCKETS, np.float32), np.ones(3, np.float32)
    guess = suffix_draft([own, None, again.index()], chances, 0 * chances, 0 * chances, scales, 4.0, 1, 1, 0.0)
    assert guess[0] == [3]


def test_drafts_come_from_the_table(tmp_path: Path) -> None:
    script = [*np.random.default_rng(3).permutation(60).tolist(), 0]
    (tmp_path / "table.npz").write_bytes(learn_table([np.array(script, np.int32)] * 3, 64).to_bytes())

    def steps(table: str) -> int:
        settings = EngineSettings(speculative_config=SpeculativeConfig(table=table))
        engine = Engine(ScriptedExecutor(script, vocab_size=64), settings=settings)
        engine.add("r", [63], SamplingParams(temperature=0, max_tokens=50, ignore_eos=True))
        assert run(engine)["r"].outputs[0].token_ids == script[:50]
        return engine.counters.steps

    assert steps("none") == 50 and steps(str(tmp_path / "table.npz")) < 50


def test_a_table_of_another_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "table.npz").write_bytes(learn_table(STREAMS, 100).to_bytes())
    settings = EngineSettings(speculative_config=SpeculativeConfig(table=str(tmp_path / "table.npz")))
    with pytest.raises(ConfigError, match="is for 100 tokens, the model has 64"):
        Engine(ScriptedExecutor([1], vocab_size=64), settings=settings)


def _columns(**changed: Any) -> dict[str, Any]:
    table = learn_table(STREAMS, 10)
    columns = {name: getattr(table, name) for name in ("contexts", "best", "count", "follow")}
    return {**columns, "vocab_size": np.int64(10), "vocabulary": np.array(""), **changed}


def _without(columns: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in columns.items() if key != name}


GOOD = _columns()
N = len(GOOD["best"])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (_without(GOOD, "best"), "best"),
        (_columns(best=GOOD["best"][:-1]), "differ in length"),
        (_columns(contexts=GOOD["contexts"][:, :2].copy()), "differ in length"),
        (_columns(best=GOOD["best"].astype(np.int64)), "not int32"),
        (_columns(best=np.full(N, 10, np.int32)), "out of range"),
        (_columns(best=np.full(N, -1, np.int32)), "out of range"),
        (_columns(count=np.zeros(N, np.int32)), "out of range"),
        (_columns(follow=GOOD["count"] - 1), "out of range"),
        (_columns(contexts=np.full((N, ORDER), -1, np.int32)), "out of range"),
        (_columns(best=np.array(["a"] * N, object)), "no table"),
        (_columns(vocab_size=np.array("x")), "no table"),
        (_columns(best=np.int32(3)), "differ in length"),
        (_columns(contexts=np.zeros((9_000_000, ORDER), np.int32)), "too large"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    with (tmp_path / "table.npz").open("wb") as file:
        np.savez_compressed(file, **columns)
    with pytest.raises(ConfigError, match=words) as caught:
        load_table(tmp_path / "table.npz")
    assert "\n" not in str(caught.value) and "table.npz" in str(caught.value)


def _array_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def _zip_of(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"hello", _array_file(), b"PK\x03\x04 broken", _zip_of("a.txt", b"x"), _zip_of("best.npy", b"x")]
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.npz").write_bytes(content)
    with pytest.raises(ConfigError, match="no table of continuations") as caught:
        load_table(tmp_path / "table.npz")
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.npz", tmp_path):
        with pytest.raises(ConfigError, match="no table of continuations"):
            load_table(path)
