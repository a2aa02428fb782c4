"""What was answered before: drafts for later requests, of the same cache salt only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from forerun._native import SuffixIndex

_ORDER = 6
_ENTRIES = 1 << 18
"""Of one index: 12 MiB at most; two indices a salt."""
_SALTS = 8


class Memory:
    """Answers by cache salt. Who shares no KV blocks shares no words either: how fast an answer comes would tell what
    others were told. The salts that were used last are kept."""

    def __init__(self, most: int) -> None:
        """``most``: answers of a salt, beyond which the older half is forgotten; 0: nothing is kept."""
        self._most = most
        self._salts: OrderedDict[str, _Words] = OrderedDict()

    def words(self, salt: str) -> SuffixIndex | None:
        """Where a request of this salt looks its next words up; the index goes on learning. None: nothing is kept."""
        return self._known(salt).full if self._most else None

    def remember(self, salt: str, answer: Sequence[int]) -> None:
        """An answer has ended."""
        if self._most and len(answer) > 1:
            self._known(salt).learn(answer, self._most)

    def _known(self, salt: str) -> _Words:
        if salt not in self._salts:
            self._salts[salt] = _Words()
        self._salts.move_to_end(salt)
        if len(self._salts) > _SALTS:
            self._salts.popitem(last=False)
        return self._salts[salt]


class _Words:
    """Two indices: the full one is looked up, and takes the young one's place when that has half of the answers."""

    def __init__(self) -> None:
        self.full, self._young = SuffixIndex(_ORDER, _ENTRIES), SuffixIndex(_ORDER, _ENTRIES)
        self._answers = 0

    def learn(self, answer: Sequence[int], most: int) -> None:
        tokens = np.array(answer, np.int32)
        for index in (self.full, self._young):
            index.cut()
            index.extend(tokens)
        self._answers += 1
        if self._answers * 2 >= most or self._young.entries * 2 >= _ENTRIES:
            self.full, self._young, self._answers = self._young, SuffixIndex(_ORDER, _ENTRIES), 0
