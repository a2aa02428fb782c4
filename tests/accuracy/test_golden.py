"""Saved references: round trip, and refusal of everything that is not one."""

from __future__ import annotations

import contextlib
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forerun.accuracy.golden import Golden, load_golden, save_golden
from forerun.accuracy.reference import Answer
from forerun.errors import AccuracyError


def answer(prompt: list[int], tokens: list[int], logits: bool = True) -> Answer:
    rows = np.random.default_rng(len(prompt)).normal(size=(len(tokens), 7)).astype(np.float32) if logits else None
    return Answer(np.asarray(prompt, np.int32), np.asarray(tokens, np.int32), rows)


GOLDEN = Golden((answer([1, 2], [3, 4, 5]), answer([6], [0], logits=False)), "abc")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    save_golden(path, GOLDEN)
    read = load_golden(path)
    assert read.fingerprint == "abc" and read.name == str(path)
    for mine, theirs in zip(read.answers, GOLDEN.answers, strict=True):
        assert mine.prompt_ids.tolist() == theirs.prompt_ids.tolist() and mine.tokens.tolist() == theirs.tokens.tolist()
    assert GOLDEN.answers[0].logits is not None
    assert np.array_equal(read.answers[0].logits, GOLDEN.answers[0].logits)  # type: ignore[arg-type]
    assert read.answers[1].logits is None
    assert [file.name for file in tmp_path.iterdir()] == ["golden.npz"]


def test_files_made_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, prompt_0=np.asarray([1, 2]), tokens_0=np.asarray([3]), logits_0=np.ones((1, 4)))
    read = load_golden(path)
    assert read.fingerprint == "" and read.answers[0].logits is not None
    assert read.answers[0].logits.dtype == np.float32 and read.answers[0].tokens.dtype == np.int32


def test_answers_are_found_by_prompt_and_cut() -> None:
    found = GOLDEN.answer(3, [1, 2], 2, (), True)
    assert found.tokens.tolist() == [3, 4] and found.logits is not None and found.logits.shape == (2, 7)
    with pytest.raises(AccuracyError, match="answers 2 prompts, but not prompt 3"):
        GOLDEN.answer(3, [1, 9], 2, (), False)
    with pytest.raises(AccuracyError, match="has no logits for prompt 1"):
        GOLDEN.answer(1, [6], 1, (), True)
    assert GOLDEN.answer(1, [6], 1, (), False).tokens.tolist() == [0]


def test_another_checkpoint_is_refused() -> None:
    GOLDEN.require_fingerprint("abc")
    GOLDEN.require_fingerprint("")
    with pytest.raises(AccuracyError, match="another checkpoint"):
        GOLDEN.require_fingerprint("xyz")


@pytest.mark.parametrize("name", ["logits.pt", "expected.bin", "old.pkl"])
def test_pickles_are_refused_without_being_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(AccuracyError, match=r"pickles, which can run code .* python -m forerun\.accuracy\.record"):
        load_golden(tmp_path / name)


def test_pickles_inside_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sly.npz"
    np.savez(path, prompt_0=np.asarray([{"a": 1}], dtype=object), tokens_0=np.asarray([1]))
    with pytest.raises(AccuracyError, match="without pickle"):
        load_golden(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(AccuracyError, match="without pickle"):
        load_golden(path)


ARRAYS: dict[str, Any] = {"prompt_0": np.asarray([1]), "tokens_0": np.asarray([2, 3]), "logits_0": np.ones((2, 4))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_0": None}, "the array prompt_0 is missing"),
        ({"tokens_0": None}, "tokens_0 must be a one-dimensional array of token ids"),
        ({"tokens_0": np.asarray([1.5])}, "tokens_0 must be a one-dimensional array of token ids"),
        ({"prompt_0": np.ones((2, 2), np.int64)}, "prompt_0 must be"),
        ({"logits_0": np.ones((3, 4))}, r"logits_0 must be floats of shape \[2, vocabulary\]"),
        ({"logits_0": np.ones((2, 4), np.int32)}, "logits_0 must be floats"),
    ],
)
def test_contradictory_files(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: value for name, value in (ARRAYS | change).items() if value is not None})
    with pytest.raises(AccuracyError, match=message):
        load_golden(path)


def test_missing_truncated_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(AccuracyError, match="there is no such file"):
        load_golden(tmp_path / "absent.npz")
    save_golden(tmp_path / "whole.npz", GOLDEN)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:200])
    np.save(tmp_path / "single.npy", np.ones(3))
    for name in ("cut.npz", "single.npy"):
        with pytest.raises(AccuracyError, match="it is no reference in"):
            load_golden(tmp_path / name)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes(tmp_path: Path, seed: int) -> None:
    """Whatever the libraries below make of them: a header that is no Python, an unknown or encrypted compression ..."""
    save_golden(tmp_path / "good.npz", GOLDEN)
    content, dice = bytearray((tmp_path / "good.npz").read_bytes()), random.Random(seed)
    for _ in range(4):
        content[dice.randrange(len(content))] = dice.choice((0, 1, 8, 12, 14, 0x7F, 0xFF))
    (tmp_path / "bad.npz").write_bytes(content)
    with contextlib.suppress(AccuracyError):
        load_golden(tmp_path / "bad.npz")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AccuracyError, match="cannot be written"):
        save_golden(tmp_path / "no" / "golden.npz", GOLDEN)
