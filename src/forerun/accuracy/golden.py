"""References saved as .npz: token ids and logits of greedy answers, without pickle.

Arrays of a file, with i counting the prompts from 0: ``prompt_i`` and ``tokens_i`` (integers), ``logits_i`` (float32
[tokens, vocab], may be absent), and ``fingerprint`` (the checkpoint's, a string; may be absent or empty).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forerun.accuracy.reference import Answer
from forerun.errors import AccuracyError
from forerun.whole_file import whole_file

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
RECORD_COMMAND = "python -m forerun.accuracy.record --model-path MODEL --prompt PROMPT --output FILE.npz"


@dataclass(frozen=True)
class Golden:
    """A saved reference: one answer per prompt, and the fingerprint of the checkpoint that gave them ("": unknown)."""

    answers: tuple[Answer, ...]
    fingerprint: str = ""
    name: str = "the saved reference"

    def answer(
        self, number: int, prompt_ids: Sequence[int], steps: int, end_ids: Collection[int], want_logits: bool
    ) -> Answer:
        """The saved answer to these prompt ids, cut to ``steps``. Raises AccuracyError when there is none."""
        saved = next((each for each in self.answers if each.prompt_ids.tolist() == list(prompt_ids)), None)
        if saved is None:
            count = len(self.answers)
            raise AccuracyError(
                f"{self.name} answers {count} prompts, but not prompt {number}; record it with this one"
            )
        if want_logits and saved.logits is None:
            raise AccuracyError(f"{self.name} has no logits for prompt {number}; logit matching needs them")
        return Answer(saved.prompt_ids, saved.tokens[:steps], None if saved.logits is None else saved.logits[:steps])

    def require_fingerprint(self, fingerprint: str) -> None:
        """Raise AccuracyError when the reference is known to come from another checkpoint."""
        if self.fingerprint and fingerprint and self.fingerprint != fingerprint:
            raise AccuracyError(f"{self.name} comes from another checkpoint (its weights differ); record it again")


def save_golden(path: Path, golden: Golden) -> None:
    """Write the file, whole or not at all."""
    arrays: dict[str, NDArray[np.generic]] = {"fingerprint": np.asarray(golden.fingerprint)}
    for number, answer in enumerate(golden.answers):
        arrays[f"prompt_{number}"] = answer.prompt_ids
        arrays[f"tokens_{number}"] = answer.tokens
        if answer.logits is not None:
            arrays[f"logits_{number}"] = answer.logits
    try:
        with whole_file(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise AccuracyError(f"{path}: the reference cannot be written ({error.strerror})") from None


def load_golden(path: Path) -> Golden:
    """Read a saved reference. Raises AccuracyError for anything else, above all for pickles."""
    if path.suffix in PICKLE_SUFFIXES:
        raise AccuracyError(
            f"{path}: PyTorch files are pickles, which can run code when they are read; "
            f"make the reference again as .npz with: {RECORD_COMMAND}"
        )
    if not path.is_file():
        raise AccuracyError(f"{path}: there is no such file; record a reference with: {RECORD_COMMAND}")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ValueError("one array instead of an archive")
        with content:
            arrays = {name: content[name] for name in content.files}
    except MemoryError:
        raise
    except Exception as error:  # NumPy, its zip archives and their headers in Python's syntax raise a dozen kinds
        reason = " ".join(str(error).split())[:160]
        raise AccuracyError(f"{path}: it is no reference in .npz form without pickle ({reason})") from None
    return Golden(tuple(_answers(path, arrays)), str(arrays.get("fingerprint", "")), str(path))


def _answers(path: Path, arrays: dict[str, NDArray[np.generic]]) -> list[Answer]:
    count = 0
    while f"prompt_{count}" in arrays:
        count += 1
    if not count:
        raise AccuracyError(f"{path}: the array prompt_0 is missing; a reference has prompt_0, tokens_0, logits_0, ...")
    return [_answer(path, arrays, number) for number in range(count)]


def _answer(path: Path, arrays: dict[str, NDArray[np.generic]], number: int) -> Answer:
    prompt, tokens = (_ids(path, arrays, f"{name}_{number}") for name in ("prompt", "tokens"))
    logits = arrays.get(f"logits_{number}")
    if logits is None:
        return Answer(prompt, tokens, None)
    if logits.ndim != 2 or len(logits) != len(tokens) or not np.issubdtype(logits.dtype, np.floating):
        raise AccuracyError(f"{path}: logits_{number} must be floats of shape [{len(tokens)}, vocabulary]")
    return Answer(prompt, tokens, logits.astype(np.float32))


def _ids(path: Path, arrays: dict[str, NDArray[np.generic]], name: str) -> NDArray[np.int32]:
    values = arrays.get(name)
    if values is None or values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise AccuracyError(f"{path}: {name} must be a one-dimensional array of token ids")
    return values.astype(np.int32)
