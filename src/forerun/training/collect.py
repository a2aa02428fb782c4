"""The target writes questions and answers, many at once, until there are enough of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from forerun.checkpoint.tokenizer import Tokenizer
from forerun.engine.engine import Engine
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.params import SamplingParams
from forerun.errors import ForerunError
from forerun.runtime.step import Executor
from forerun.training.files import remove_parts
from forerun.training.openings import Frame, Plan, frame_of, plan_document
from forerun.training.recipe import CollectRecipe, as_mapping, keep_recipe
from forerun.training.shards import Document, read_shard, shard_path, whole_shards, write_shard

Tell = Callable[[str, int, int], None]
"""(what is being done, tokens done, tokens in all)."""


class Collector:
    """Documents in the order of their numbers, as many at once as the executor has sequences; a shard is written when
    all of its documents are there. Which tokens come does not depend on what runs beside them, nor on stops."""

    def __init__(self, executor: Executor, tokenizer: Tokenizer, recipe: CollectRecipe, folder: Path) -> None:
        self._recipe, self._folder = recipe, folder
        self._frame: Frame = frame_of(tokenizer)
        self._tokenizer, self._ends = tokenizer, frozenset(tokenizer.eos_token_ids)
        self._vocab_size = executor.vocab_size
        self._engine = Engine(executor, settings=EngineSettings(), eos_token_ids=tokenizer.eos_token_ids)
        self._together = min(executor.max_seqs, executor.max_sample_rows)
        self._writers: dict[str, _Writer] = {}
        self._shards: dict[int, list[Document]] = {}
        self._next = 0
        self._whole, self._counted = 0, 0

    def run(self, tokens: int, tell: Tell) -> int:
        """Write shards until those from the first on hold ``tokens``; returns how many they hold."""
        keep_recipe(self._folder / "recipe.json", as_mapping(self._recipe))
        done = self._count_whole()
        if done < tokens:
            remove_parts(self._folder)
        while done < tokens:
            self._begin()
            for delta in self._engine.step():
                writer = self._writers[delta.request_id]
                writer.add(delta.token_ids)
                if delta.finished:
                    self._ended(delta.request_id, delta.error)
            done = self._count_whole()
            tell(f"{len(self._shards)} shards begun", min(tokens, done + self._open_tokens()), tokens)
        for name in self._writers:
            self._engine.abort(name)
        return done

    def _begin(self) -> None:
        while len(self._writers) < self._together:
            shard, place = divmod(self._next, self._recipe.documents)
            if place == 0 and shard_path(self._folder, shard).is_file():
                self._next += self._recipe.documents
                continue
            plan = plan_document(self._recipe.seed, self._next, self._frame.chat)
            opening = self._tokenizer.encode(plan.opening, add_special_tokens=False)
            self._shards.setdefault(shard, [])
            self._next += 1
            self._ask(str(plan.number), _Writer(plan, [*self._frame.before, *opening]))

    def _ask(self, name: str, writer: _Writer) -> None:
        self._writers[name] = writer
        limits = (self._frame.question, self._recipe.answer_tokens)
        answering = writer.answer is not None
        params = SamplingParams(
            temperature=writer.plan.temperature if answering else 1.0,
            top_p=1.0 if answering else 0.95,
            seed=writer.plan.seeds[answering],
            max_tokens=limits[answering],
            detokenize=False,
        )
        self._engine.add(name, writer.tokens, params)

    def _ended(self, name: str, error: str | None) -> None:
        if error is not None:
            raise ForerunError(f"the target failed: {error}")
        writer = self._writers.pop(name)
        if writer.answer is None:
            writer.turn(self._frame, self._ends)
            self._ask(name, writer)
            return
        shard = writer.plan.number // self._recipe.documents
        plan, documents = writer.plan, self._shards[shard]
        documents.append(Document(plan.number, writer.tokens, writer.answer, plan.temperature, plan.code))
        if len(documents) == self._recipe.documents:
            write_shard(shard_path(self._folder, shard), self._shards.pop(shard), self._vocab_size)

    def _count_whole(self) -> int:
        while (path := shard_path(self._folder, self._whole)).is_file():
            self._counted += sum(len(document.tokens) for document in read_shard(path))
            self._whole += 1
        return self._counted

    def _open_tokens(self) -> int:
        finished = sum(len(document.tokens) for shard in self._shards.values() for document in shard)
        return finished + sum(len(writer.tokens) for writer in self._writers.values())


class _Writer:
    """A document so far. ``answer``: where its answer begins, None while the question is written."""

    def __init__(self, plan: Plan, tokens: list[int]) -> None:
        self.plan, self.tokens = plan, tokens
        self.answer: int | None = None

    def add(self, tokens: Sequence[int]) -> None:
        """What the target wrote."""
        self.tokens += tokens

    def turn(self, frame: Frame, ends: frozenset[int]) -> None:
        """The question is complete; the answer follows."""
        if self.tokens[-1] in ends:
            self.tokens.pop()
        self.tokens += frame.between
        self.answer = len(self.tokens)


def read_documents(folder: Path, tokens: int) -> list[Document]:
    """The documents of as many whole shards as hold ``tokens``, or of all that are there."""
    found: list[Document] = []
    counted = 0
    for path in whole_shards(folder):
        if counted >= tokens:
            break
        documents = read_shard(path)
        counted += sum(len(document.tokens) for document in documents)
        found += documents
    return found
