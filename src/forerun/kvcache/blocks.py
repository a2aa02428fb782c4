"""The block pool: who holds which KV block, and in which order free blocks are used again."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping


class BlockPool:
    """Reference counts and free lists of ``num_blocks`` KV blocks. Every operation is O(1).

    A block is *held* (count > 0), *spare* (free, nothing worth keeping) or *kept* (free, but its contents may be
    wanted again: it carries a label, the salt under which they can be found). Spare blocks are handed out first, then
    the kept block that was released longest ago; callers release the tail of a sequence first, so tails go first.

    A label that holds or keeps ``max_label_share`` of the pool or more gives up its own oldest kept block before
    it takes one that another label keeps. So nobody can flush the others' prefixes, and whoever is alone may use
    everything. ``on_evict(block)`` is called when a kept block is handed out for new contents.
    """

    def __init__(self, num_blocks: int, max_label_share: float, on_evict: Callable[[int], None]) -> None:
        self.num_blocks = num_blocks
        self._share_limit = max_label_share * num_blocks
        self._on_evict = on_evict
        self._refs = [0] * num_blocks
        self._labels: list[str | None] = [None] * num_blocks
        self._label_counts: dict[str, int] = {}
        self._spare = list(range(num_blocks - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._kept_by_label: dict[str, OrderedDict[int, None]] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, kept ones included."""
        return len(self._spare) + len(self._kept)

    @property
    def num_kept(self) -> int:
        """Free blocks whose contents can still be found."""
        return len(self._kept)

    def refs(self, block: int) -> int:
        """How many sequences hold ``block``."""
        return self._refs[block]

    def labelled(self) -> set[int]:
        """Blocks that carry a label, held or kept."""
        return {block for block, label in enumerate(self._labels) if label is not None}

    def is_free(self, block: int) -> bool:
        """Whether nobody holds ``block``."""
        return self._refs[block] == 0

    def take(self, label: str) -> int:
        """Hand out a free block for new contents under ``label``. Raises IndexError when none is free."""
        if self._spare:
            block = self._spare.pop()
        else:
            block = self._victim(label)
            self.unlabel(block)
            self._spare.pop()
            self._on_evict(block)
        self._refs[block] = 1
        return block

    def hold(self, block: int) -> None:
        """Add a holder to a held or kept block (a prefix hit)."""
        if self._refs[block] == 0:
            self._forget_kept(block)
        self._refs[block] += 1

    def release(self, block: int) -> None:
        """Drop one holder; the last one sends the block to the end of the kept list, or to the spare ones."""
        refs = self._refs[block] - 1
        if refs < 0:
            raise ValueError(f"block {block} is released more often than it was held")
        self._refs[block] = refs
        if refs:
            return
        label = self._labels[block]
        if label is None:
            self._spare.append(block)
        else:
            self._kept[block] = None
            self._kept_by_label.setdefault(label, OrderedDict())[block] = None

    def label(self, block: int, label: str) -> None:
        """Mark a held block as worth keeping for ``label`` once it is free."""
        if self._refs[block] == 0 or self._labels[block] is not None:
            raise ValueError(f"block {block} must be held and unlabelled to be labelled")
        self._labels[block] = label
        self._label_counts[label] = self._label_counts.get(label, 0) + 1

    def unlabel(self, block: int) -> None:
        """Take the mark away; a kept block becomes spare."""
        label = self._labels[block]
        if label is None:
            return
        if self._refs[block] == 0:
            self._forget_kept(block)
            self._spare.append(block)
        self._labels[block] = None
        count = self._label_counts[label] - 1
        if count:
            self._label_counts[label] = count
        else:
            del self._label_counts[label]

    def check(self, held: Mapping[int, int]) -> None:
        """Raise RuntimeError unless every block is held as often as ``held`` says (not at all where it says nothing),
        spare, or kept under its label."""
        refs = {block: count for block, count in enumerate(self._refs) if count}
        if refs != dict(held):
            odd = sorted(block for block in refs.keys() | held.keys() if refs.get(block) != held.get(block))
            raise RuntimeError(f"KV blocks {odd[:5]} are not held by as many sequences as are counted")
        if sorted([*refs, *self._spare, *self._kept]) != list(range(self.num_blocks)):
            raise RuntimeError("a KV block is not in exactly one place: held, spare or kept")
        filed = {block: label for label, blocks in self._kept_by_label.items() for block in blocks}
        if filed != {block: self._labels[block] for block in self._kept}:
            raise RuntimeError("kept KV blocks are filed under other labels than theirs")
        if Counter(label for label in self._labels if label is not None) != self._label_counts:
            raise RuntimeError("labelled KV blocks are not as many as are counted")

    def _victim(self, label: str) -> int:
        """The kept block to give up for ``label``: its own oldest when it is over its share, else the oldest of
        all."""
        own = self._kept_by_label.get(label)
        if own is not None and self._label_counts[label] >= self._share_limit:
            return next(iter(own))
        if not self._kept:
            raise IndexError("no free KV block")
        return next(iter(self._kept))

    def _forget_kept(self, block: int) -> None:
        del self._kept[block]
        label = self._labels[block]
        assert label is not None
        own = self._kept_by_label[label]
        del own[block]
        if not own:
            del self._kept_by_label[label]
