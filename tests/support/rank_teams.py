"""The members of a rank group as threads of the test: each with its own shards, its own cache, nothing else shared."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np

from forerun.compiler.formats import PANEL
from forerun.compiler.shard import panels_of
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.ranks import AllGather, Bytes, Finish, RankGroup
from forerun.runtime.step import StepInput, StepOutput
from forerun.runtime.weights import PackedShard, PackedWeight
from tests.support.native_models import PackedModel


class MemberGoneError(Exception):
    """A meeting is broken."""


PATIENCE = 60
"""Seconds that a member waits for the others."""


class Meeting:
    """An all-gather of threads: nobody waits before the end of it. ``calls``: of the first member; ``under_way``: the
    most that it had begun and not ended. Once ``broken``, it raises."""

    def __init__(self, members: int) -> None:
        self.calls = self.under_way = 0
        self._members, self._news = members, threading.Condition()
        self.mend()

    def mend(self) -> None:
        """Forget what was sent before."""
        self.broken = False
        self.sent: list[list[bytes]] = [[] for _ in range(self._members)]
        self.ended = [0] * self._members

    def of(self, member: int) -> AllGather:
        def all_gather(send: Bytes, counts: list[int]) -> Finish:
            assert len(send) == counts[member]
            with self._news:
                self.sent[member].append(send.tobytes())
                number = len(self.sent[member]) - 1
                self._news.notify_all()
            if member == 0:
                self.calls += 1
                self.under_way = max(self.under_way, number + 1 - self.ended[0])

            def finish(receive: Bytes) -> None:
                assert len(receive) == sum(counts) and number == self.ended[member], "in the order of their beginning"
                with self._news:
                    there = self._news.wait_for(lambda: self.broken or self._all_sent(number), PATIENCE)
                    if self.broken or not there:
                        raise MemberGoneError
                    receive[:] = np.frombuffer(b"".join(sent[number] for sent in self.sent), np.uint8)
                self.ended[member] += 1

            return finish

        return all_gather

    def _all_sent(self, number: int) -> bool:
        return all(len(sent) > number for sent in self.sent)


class RankTeam:
    """An executor made of several, which all must come to the same results."""

    lost = ""

    def __init__(self, model: PackedModel, begins: Sequence[int], **options: Any) -> None:
        """``begins``: the first rank of each member, then the number of ranks."""
        self.meeting = Meeting(len(begins) - 1)
        defaults: dict[str, Any] = {"num_blocks": 24, "block_size": 16, "max_model_len": 24 * 16}
        chosen = NativeOptions(**defaults | options)
        groups = [RankGroup(m, tuple(begins), self.meeting.of(m)) for m in range(len(begins) - 1)]
        self.members = [NativeExecutor(model.program, shards_of(model, g), chosen, group=g) for g in groups]
        first = self.members[0]
        self.vocab_size, self.num_blocks, self.block_size = first.vocab_size, first.num_blocks, first.block_size
        self.max_model_len, self.max_rows = first.max_model_len, first.max_rows
        self.max_seqs, self.max_sample_rows = first.max_seqs, first.max_sample_rows
        self._pool = ThreadPoolExecutor(len(self.members))

    def step(self, batch: StepInput) -> StepOutput:
        """The same step in every member."""
        outputs = [each.result() for each in [self._pool.submit(member.step, batch) for member in self.members]]
        for output in outputs[1:]:
            for name, value in vars(outputs[0]).items():
                other = getattr(output, name)
                assert (value is None and other is None) or value.tobytes() == other.tobytes(), name
        return outputs[0]

    def close(self) -> None:
        """End them all."""
        self._pool.shutdown()
        for member in self.members:
            member.close()


def shards_of(model: PackedModel, group: RankGroup) -> dict[str, PackedWeight]:
    """Copies of what a member needs of each matrix, in two pieces where there are two panels or more."""
    panels = panels_of(model.program, group.ranks)
    weights = {}
    for name, weight in model.packed.items():
        if weight.vector is None:
            count = -(-model.program.weights[name].shape[0] // PANEL)
            pieces = (_pieces(weight.shards[0], count, part) for part in panels[name])
            weight = PackedWeight(tuple(chain.from_iterable(pieces)))
        weights[name] = weight
    return weights


def _pieces(whole: PackedShard, count: int, panels: range) -> list[PackedShard]:
    middle = panels.start + len(panels) // 4 * 2  # gate and up stay together
    return [_cut(whole, count, part) for part in (range(panels.start, middle), range(middle, panels.stop)) if part]


def _cut(whole: PackedShard, count: int, panels: range) -> PackedShard:
    """A copy of ``panels`` out of ``count``, aligned as in a file."""
    data = whole.data.reshape(count, -1)[panels.start : panels.stop].reshape(-1)
    room = np.empty(data.size + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + data.size] = data
    scales = whole.scales
    if scales is not None:
        scales = scales.reshape(count, PANEL)[panels.start : panels.stop].reshape(-1).copy()
    return PackedShard(panels.start, room[start : start + data.size], scales)
