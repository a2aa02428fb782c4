"""The sampling parameters of a step's rows, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from forerun.engine.adjust import Entries
from forerun.engine.constraint import Constraint
from forerun.engine.request import Request
from forerun.engine.scheduler import Scheduled
from forerun.runtime.step import Executor, Int32, RedrawingExecutor, SamplingRows, UInt32

_NO_ENTRIES: Entries = (np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))


_KEPT = 8
"""Numbers of rows that the same requests draw in turns."""


class SamplingBuilder:
    """Builds SamplingRows; rows that stay the same from one step to the next are not built again."""

    def __init__(self, executor: Executor | None = None) -> None:
        """``executor``: who will run the steps."""
        self._executor = executor if isinstance(executor, RedrawingExecutor) else None
        self._drawing: list[Request] = []  # who drew in the last step, when that says everything
        self._maskable: tuple[int, ...] = ()  # places among these whose rows may be masked once they are drawn
        self._later: tuple[int, ...] = ()  # places in this step's plan whose rows are
        # Parameters of these, by who is masked later and how many rows each drew.
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], SamplingRows] = {}

    def build(self, plan: list[Scheduled]) -> SamplingRows:
        """Parameters of all sampled rows of ``plan``, in its order. Valid until the next call."""
        self._later = ()
        if any(item.scores or (item.draws and item.request.adjust is not None) for item in plan):
            return self._general(plan)
        drawing = [item.request for item in plan if item.draws]
        draws = tuple(item.draws for item in plan if item.draws)
        if drawing != self._drawing or len(self._known) == _KEPT:
            self._drawing = drawing
            self._maskable = self._no_masks(drawing)
            self._known.clear()
        if self._maskable and all(item.rows == item.draws == 1 for item in plan):  # nothing but decoding
            self._later = self._maskable
        later = self._later
        rows = self._known.get((later, draws))
        if rows is None:
            rows = _rows([request for request, count in zip(drawing, draws, strict=True) for _ in range(count)], None)
            rows.keep_logits = bool(later)
            rows.mask_rows, rows.masks = _room_for_masks(plan, later)
            self._known[later, draws] = rows
        _fill_masks(plan, rows.masks, later)
        return rows

    def _no_masks(self, requests: list[Request]) -> tuple[int, ...]:
        """Places of those whose row needs a mask only if its token does not go on with the form."""
        executor = self._executor
        if executor is None or len(requests) > executor.redraws:
            return ()
        return tuple(place for place, request in enumerate(requests) if _needs_no_mask(request, executor.cuts))

    def settle(self, plan: list[Scheduled], drawn: list[int]) -> None:
        """Draw again where a token does not go on with the form of its answer. Most tokens do, and a mask is much more
        work than to look at a token."""
        for place in self._later:
            constraint = plan[place].request.constraint
            assert self._executor is not None
            assert constraint is not None
            if not constraint.follows(drawn[place]):
                drawn[place] = self._executor.redraw(place, constraint.behind())

    def _general(self, plan: list[Scheduled]) -> SamplingRows:
        owners: list[Request | None] = []  # None: a row that is read for prompt log-probabilities only
        entries: list[Entries | None] = []
        for item in plan:
            owners += [None] * item.scores
            entries += [None] * item.scores
            if item.draws:
                owners += [item.request] * item.draws
                entries += _draw_entries(item)
        rows = _rows(owners, entries)
        rows.mask_rows, rows.masks = _room_for_masks(plan)
        _fill_masks(plan, rows.masks)
        return rows


def draft_rows(requests: Sequence[Request], drafted: Sequence[Sequence[int]], vocab_size: int) -> SamplingRows:
    """How a draft model of ``vocab_size`` tokens draws: as the target will draw behind the same drafted tokens.
    Log-probabilities are not asked for."""
    entries: list[Entries | None] = []
    for request, draft in zip(requests, drafted, strict=True):
        adjust = request.adjust
        if adjust is None:
            entries.append(None)
            continue
        for token in draft:
            adjust.observe(token)
        ids, add, rep = adjust.entries([*request.output, *draft])
        entries.append((ids.copy(), add.copy(), rep.copy()))
        for token in reversed(draft):
            adjust.forget(token)
    rows = _rows(list(requests), entries)
    rows.num_logprobs.fill(-1)
    held = [place for place, request in enumerate(requests) if request.constraint is not None]
    rows.mask_rows, rows.masks = np.array(held, np.int32), np.zeros((len(held), -(-vocab_size // 32)), np.uint32)
    for place, row in zip(held, rows.masks, strict=True):
        constraint = requests[place].constraint
        assert constraint is not None
        mask = constraint.behind(drafted[place])
        row[: len(mask)] = mask[: len(row)]
    return rows


def _needs_no_mask(request: Request, cuts: bool) -> bool:
    """Whether what is drawn is the largest of scores that do not depend on each other, so that a mask which allows it
    would change nothing. ``cuts``: whether the executor cuts distributions."""
    params = request.params
    if request.constraint is None or request.search is not None or params.logprobs is not None:
        return False
    if params.allowed_token_ids or params.logprob_token_ids:
        return False
    whole = not params.top_k > 0 and params.top_p >= 1.0 and not params.min_p > 0.0
    return not params.temperature or (whole and not cuts)


def _masked(plan: list[Scheduled], later: Sequence[int]) -> Iterator[tuple[Scheduled, Constraint, int]]:
    """Who has masks in this step, and the first sampled row behind his."""
    row = 0
    for place, item in enumerate(plan):
        row += item.scores + item.draws
        constraint = item.request.constraint
        if item.draws and constraint is not None and place not in later:
            yield item, constraint, row


def _room_for_masks(plan: list[Scheduled], later: Sequence[int] = ()) -> tuple[Int32, UInt32]:
    """Which sampled rows have masks, and memory for these; those at the places ``later`` have none yet."""
    held: list[int] = []
    words = 0
    for item, constraint, end in _masked(plan, later):
        held += range(end - item.draws, end)
        words = constraint.words
    return np.array(held, np.int32), np.zeros((len(held), words), np.uint32)


def _fill_masks(plan: list[Scheduled], masks: UInt32, later: Sequence[int] = ()) -> None:
    row = 0
    for item, constraint, _ in _masked(plan, later) if len(masks) else ():
        constraint.fill(item.draft, masks[row : row + item.draws])
        row += item.draws


def _draw_entries(item: Scheduled) -> list[Entries | None]:
    """Adjustments of each drawn row: row j follows the output and the first j draft tokens."""
    adjust = item.request.adjust
    if adjust is None:
        return [None] * item.draws
    output = list(item.request.output)
    entries: list[Entries | None] = []
    for place in range(item.draws):
        ids, add, rep = adjust.entries(output)
        entries.append((ids.copy(), add.copy(), rep.copy()) if item.draft else (ids, add, rep))
        if place < len(item.draft):
            output.append(item.draft[place])
            adjust.observe(item.draft[place])
    for token in reversed(item.draft):
        adjust.forget(token)
    return entries


def _rows(owners: list[Request] | list[Request | None], entries: list[Entries | None] | None) -> SamplingRows:
    count = len(owners)
    rows = SamplingRows.greedy(count)
    allow: list[tuple[int, ...]] = []
    for place, request in enumerate(owners):
        if request is None:
            allow.append(())
            continue
        params = request.params
        if params.temperature:
            rows.temperature[place] = params.temperature
            rows.top_k[place] = params.top_k
            rows.top_p[place] = params.top_p
            rows.min_p[place] = params.min_p
            rows.seed[place] = request.seed
        if params.logprobs is not None:
            rows.num_logprobs[place] = params.logprobs
        allow.append(params.allowed_token_ids or ())
    if any(allow):
        lists = [np.array(sorted(set(ids)), np.int32) for ids in allow]
        rows.allow_starts, rows.allow_ids = _starts(lists), np.concatenate(lists)
    if entries is not None and any(entry is not None for entry in entries):
        columns = [entry or _NO_ENTRIES for entry in entries]
        rows.adjust_starts = _starts([column[0] for column in columns])
        rows.adjust_ids = np.concatenate([column[0] for column in columns])
        rows.adjust_add = np.concatenate([column[1] for column in columns])
        rows.adjust_rep = np.concatenate([column[2] for column in columns])
    return rows


def _starts(lists: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Offsets of each list in their concatenation, int32 [len + 1]."""
    starts = np.zeros(len(lists) + 1, np.int32)
    np.cumsum([len(part) for part in lists], out=starts[1:])
    return starts
