"""The oracle model: an executor whose next token is a hash of everything that it reads through the KV cache.

It has no weights. Each KV slot stores the (token, position) that was written into it, and a row's state is computed
from what its block table leads to; so one wrong slot, block or position anywhere gives other tokens, and what the
right tokens are follows from the prompt alone (``predict``). All arithmetic is on unsigned 64-bit integers modulo
2^64:

- ``mix(z)``: z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27; z *= 0x94D049BB133111EB; z ^= z >> 31.
- state of the row at position p: ``mix(sum over j = 0..p of mix((token_j << 32 | position_j) +
  0x9E3779B97F4A7C15))``, token_j and position_j (int32, taken as uint32) as stored in the slot of position j. An
  empty slot stores -1, -1.
- logit of token v: ``8 * float(mix(state + (v + 1) * 0x9E3779B97F4A7C15) >> 40) / 2^24``, exact in float32.
- adjustments, allowed tokens, masks and log-probabilities as in StepInput's contract; greedy is the largest logit,
  lowest id on a tie.
- temperature > 0: every surviving token's logit (float64) is divided by the temperature, and noise in [0, 8) is added:
  ``8 * (mix(key + (v + 1) * 0x9E3779B97F4A7C15) >> 40) / 2^24`` with ``key = mix(mix(seed + position) ^ cuts)``,
  position that of the drawn token, ``cuts`` = mix over the bit patterns of (temperature, top_p, min_p as float32,
  top_k), folded left: c = mix(c ^ bits). Cuts are thus not applied but change the draw, so that a parameter on the
  wrong row shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.runtime.step import Executor, Float32, Int32, SamplingRows, StepInput, StepOutput, UInt64

Slots = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NO_ADJUSTMENTS: Mapping[int, tuple[float, float]] = {}


def mix(z: UInt64) -> UInt64:
    """The 64-bit finaliser described at the top, elementwise."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def states(tokens: Int32, positions: Int32) -> UInt64:
    """Row states for every prefix of the stored (token, position) pairs, uint64 [n]."""
    pairs = (tokens.astype(np.uint32).astype(np.uint64) << np.uint64(32)) | positions.astype(np.uint32).astype(
        np.uint64
    )
    return mix(np.cumsum(mix(pairs + _GOLDEN), dtype=np.uint64))


def logits_of(state: UInt64, vocab_size: int) -> Float32:
    """Logits [R, vocab] of rows with ``state`` [R]; within [0, 8)."""
    return (_fraction(state, vocab_size) * 8.0).astype(np.float32)


@dataclass(frozen=True)
class Draw:
    """Sampling parameters of one predicted sequence; the defaults are greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0


def predict(
    prompt: Sequence[int],
    count: int,
    vocab_size: int,
    draw: Draw | None = None,
    adjust: Callable[[list[int]], Mapping[int, tuple[float, float]]] = lambda output: _NO_ADJUSTMENTS,
    allowed: Sequence[int] = (),
) -> list[int]:
    """The ``count`` tokens that must follow ``prompt``, without any cache.

    ``adjust(output so far)`` gives token -> (what is added, repetition factor).
    """
    draw = draw or Draw()
    tokens = list(prompt)
    for _ in range(count):
        known = np.array(tokens, np.int32)
        state = states(known, np.arange(len(tokens), dtype=np.int32))[-1:]
        row = logits_of(state, vocab_size)[0]
        changes = adjust(tokens[len(prompt) :])
        ids = np.array(list(changes), np.int32)
        add = np.array([change[0] for change in changes.values()], np.float32)
        rep = np.array([change[1] for change in changes.values()], np.float32)
        _adjust(row, ids, add, rep, np.array(allowed, np.int32))
        tokens.append(_pick(row, draw, len(tokens)))
    return tokens[len(prompt) :]


class OracleExecutor:
    """The Executor protocol over the oracle model. Input is checked more strictly than a real executor has to.

    Besides the contract: no two sequences of a step may write one slot, and none may write a slot that another reads.
    """

    lost = ""

    def __init__(
        self,
        *,
        vocab_size: int = 128,
        num_blocks: int = 64,
        block_size: int = 4,
        max_model_len: int = 256,
        max_rows: int = 64,
        max_seqs: int = 8,
        max_sample_rows: int | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_model_len = max_model_len
        self.max_rows = max_rows
        self.max_seqs = max_seqs
        self.max_sample_rows = max_rows if max_sample_rows is None else max_sample_rows
        self._tokens: Int32 = np.full(num_blocks * block_size, -1, np.int32)
        self._positions: Int32 = np.full(num_blocks * block_size, -1, np.int32)
        self._open = True

    def step(self, batch: StepInput) -> StepOutput:
        """Run one step. Raises ValueError for wrong input, before anything is written."""
        if not self._open:
            raise ValueError("the executor is closed")
        slots = check_step(self, batch)
        starts = batch.query_starts
        for place, own in enumerate(slots):
            first, end = int(starts[place]), int(starts[place + 1])
            at = int(batch.positions[first])
            self._tokens[own[at:]] = batch.token_ids[first:end]
            self._positions[own[at:]] = batch.positions[first:end]
        state = np.empty(len(batch.token_ids), np.uint64)
        for place, own in enumerate(slots):
            first, end = int(starts[place]), int(starts[place + 1])
            state[first:end] = states(self._tokens[own], self._positions[own])[first - end :]
        rows = batch.sample_rows
        raw = logits_of(state[rows], self.vocab_size)
        output = _sample(raw.copy(), batch.sampling, batch.positions[rows] + 1)
        if batch.want_logits:
            output.logits = raw
        return output

    def close(self) -> None:
        """Refuse every further step."""
        self._open = False


def _fraction(keys: UInt64, vocab_size: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 24 bits, one per key and token: [R, vocab]."""
    offsets = np.arange(1, vocab_size + 1, dtype=np.uint64) * _GOLDEN
    return (mix(keys[:, None] + offsets[None, :]) >> np.uint64(40)).astype(np.float64) / 2**24


def _adjust(row: Float32, ids: Int32, add: Float32, rep: Float32, allowed: Int32) -> None:
    """Apply adjustments and the allowed list to one row of logits, in place."""
    values = row[ids]
    row[ids] = np.where(values > 0, values / rep, values * rep) + add
    if len(allowed):
        outside = np.ones(len(row), bool)
        outside[allowed] = False
        row[outside] = -np.inf


def _pick(row: Float32, draw: Draw, position: int) -> int:
    """The token drawn from adjusted logits for ``position``."""
    if draw.temperature == 0:
        return int(np.argmax(row))
    patterns = [int(np.float32(x).view(np.uint32)) for x in (draw.temperature, draw.top_p, draw.min_p)]
    cuts = np.zeros(1, np.uint64)
    for bits in (*patterns, draw.top_k):
        cuts = mix(cuts ^ np.uint64(bits))
    key = mix(mix(np.array([draw.seed % 2**64], np.uint64) + np.uint64(position)) ^ cuts)
    noise = _fraction(key, len(row))[0] * 8.0
    return int(np.argmax(row.astype(np.float64) / float(np.float32(draw.temperature)) + noise))


def _sample(logits: Float32, rows: SamplingRows, positions: Int32) -> StepOutput:
    """Adjust and draw every row. logits [R, vocab] is overwritten; positions [R] are those of the drawn tokens."""
    count, width = len(logits), max(0, int(rows.num_logprobs.max(initial=0)))
    tokens = np.zeros(count, np.int32)
    logprobs = np.full(count, np.nan, np.float32)
    top_ids = np.full((count, width), -1, np.int32)
    top_logprobs = np.full((count, width), -np.inf, np.float32)
    for r in range(count):
        entries = slice(int(rows.adjust_starts[r]), int(rows.adjust_starts[r + 1]))
        allowed = rows.allow_ids[int(rows.allow_starts[r]) : int(rows.allow_starts[r + 1])]
        row = logits[r]
        _adjust(row, rows.adjust_ids[entries], rows.adjust_add[entries], rows.adjust_rep[entries], allowed)
        for mask in rows.masks[rows.mask_rows == r]:
            row[[not mask[t // 32] >> np.uint32(t % 32) & 1 for t in range(len(row))]] = -np.inf
        draw = Draw(
            float(rows.temperature[r]),
            int(rows.top_k[r]),
            float(rows.top_p[r]),
            float(rows.min_p[r]),
            int(rows.seed[r]),
        )
        tokens[r] = _pick(row, draw, int(positions[r])) if np.isfinite(row.max()) else -1
        wanted = int(rows.num_logprobs[r])
        if wanted >= 0 and tokens[r] >= 0:
            scores = logprobs_of(row)
            logprobs[r] = scores[tokens[r]]
            best = np.argsort(-scores, kind="stable")[:wanted]
            top_ids[r, : len(best)] = best
            top_logprobs[r, : len(best)] = scores[best]
    return StepOutput(tokens, logprobs, top_ids, top_logprobs)


def logprobs_of(row: Float32) -> Float32:
    """Log-probabilities of one row of (adjusted) logits."""
    wide = row.astype(np.float64)
    peak = wide.max()
    scores: Float32 = (wide - peak - np.log(np.exp(wide - peak).sum())).astype(np.float32)
    return scores


def check_step(executor: Executor, batch: StepInput) -> list[Slots]:
    """Raise ValueError unless ``batch`` keeps the whole contract; return the KV slots of each sequence.

    Slots of a sequence, int64 [last position + 1], are in order of position; a slot is block * block_size + offset.
    """
    _check_shapes(executor, batch)
    slots = [_slots(executor, batch, place) for place in range(len(batch.query_starts) - 1)]
    _check_sharing(batch, slots)
    _check_sampling(executor, batch.sampling, len(batch.sample_rows))
    return slots


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _check_shapes(executor: Executor, batch: StepInput) -> None:
    for name in ("token_ids", "positions", "query_starts", "sample_rows"):
        array = getattr(batch, name)
        _require(array.dtype == np.int32 and array.ndim == 1, f"{name} must be int32 [n]")
    rows, seqs, samples = len(batch.token_ids), len(batch.query_starts) - 1, len(batch.sample_rows)
    _require(1 <= rows <= executor.max_rows, f"{rows} rows; the limit is {executor.max_rows}")
    _require(1 <= seqs <= executor.max_seqs, f"{seqs} sequences; the limit is {executor.max_seqs}")
    _require(samples <= executor.max_sample_rows, f"{samples} sampled rows; the limit is {executor.max_sample_rows}")
    _require(len(batch.positions) == rows, "positions and token_ids differ in length")
    starts = batch.query_starts
    _require(int(starts[0]) == 0 and int(starts[-1]) == rows, "query_starts must go from 0 to the number of rows")
    _require(bool((np.diff(starts) > 0).all()), "every sequence needs at least one row")
    _require(bool(((batch.token_ids >= 0) & (batch.token_ids < executor.vocab_size)).all()), "token id out of range")
    tables = batch.block_tables
    _require(tables.dtype == np.int32 and tables.ndim == 2 and len(tables) == seqs, "block_tables must be int32 [S, B]")
    _require(tables.flags.c_contiguous, "block_tables must be contiguous")
    _require(bool(((tables >= -1) & (tables < executor.num_blocks)).all()), "block out of range")
    picked = batch.sample_rows
    _require(bool(((picked >= 0) & (picked < rows)).all()), "sampled row out of range")
    _require(bool((np.diff(picked) > 0).all()), "sampled rows must ascend")


def _slots(executor: Executor, batch: StepInput, place: int) -> Slots:
    first, end = int(batch.query_starts[place]), int(batch.query_starts[place + 1])
    positions = batch.positions[first:end]
    _require(int(positions[0]) >= 0, "negative position")
    _require(bool((np.diff(positions) == 1).all()), "positions of a sequence must be consecutive")
    length = int(positions[-1]) + 1
    _require(length <= executor.max_model_len, f"position {length - 1} is outside the context")
    size, table = executor.block_size, batch.block_tables[place]
    need = -(-length // size)
    _require(need <= len(table) and bool((table[:need] >= 0).all()), "a position without a block")
    used = table[table >= 0]
    _require(len(np.unique(used)) == len(used), "a block twice in one table")
    _require(bool((table[len(used) :] == -1).all()), "a hole in a block table")
    at = np.arange(length)
    slots: Slots = table[at // size].astype(np.int64) * size + at % size
    return slots


def _check_sharing(batch: StepInput, slots: list[Slots]) -> None:
    """Nobody writes what another sequence writes or reads in the same step."""
    writes = [own[int(batch.positions[int(batch.query_starts[place])]) :] for place, own in enumerate(slots)]
    for place, written in enumerate(writes):
        for other, own in enumerate(slots):
            if other != place:
                _require(not np.isin(written, own).any(), "a sequence writes a slot that another one uses")


def _check_sampling(executor: Executor, rows: SamplingRows, count: int) -> None:
    for name in ("temperature", "top_k", "top_p", "min_p", "seed", "num_logprobs"):
        _require(len(getattr(rows, name)) == count, f"{name} needs one entry per sampled row")
    for starts, ids in ((rows.adjust_starts, rows.adjust_ids), (rows.allow_starts, rows.allow_ids)):
        _check_lists(starts, ids, count, executor.vocab_size)
    masked = rows.mask_rows.tolist()
    _require(masked == sorted(set(masked) & set(range(count))), "mask_rows must ascend within the sampled rows")
    words = -(-executor.vocab_size // 32)
    _require(not masked or rows.masks.shape == (len(masked), words), "masks must have a bit for every token")
    _require(len(rows.adjust_add) == len(rows.adjust_rep) == len(rows.adjust_ids), "adjustment columns differ")
    _require(bool((rows.temperature >= 0).all()), "temperature must not be negative")
    _require(bool((rows.num_logprobs >= -1).all()), "num_logprobs must be at least -1")


def _check_lists(starts: Int32, ids: Int32, count: int, vocab_size: int) -> None:
    _require(len(starts) == count + 1 and int(starts[0]) == 0, "list starts need one entry more than there are rows")
    _require(bool((np.diff(starts) >= 0).all()) and int(starts[-1]) == len(ids), "list starts must ascend to the end")
    _require(bool(((ids >= 0) & (ids < vocab_size)).all()), "token id of a list out of range")
    for row in range(count):
        part = ids[int(starts[row]) : int(starts[row + 1])]
        _require(len(np.unique(part)) == len(part), "a token twice in one list")
