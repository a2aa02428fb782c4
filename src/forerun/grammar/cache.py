"""Compiled grammars by what they say: made once, the last used ones kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, cast

from forerun.grammar.params import GrammarError, StructuredOutputsParams

if TYPE_CHECKING:
    from forerun.grammar.library import Compiler, Grammar, Vocabulary

MOST_KEPT = 32


class Grammars:
    """Compiles for one vocabulary, of which the executor knows ``rows`` tokens. May be used from any thread; one
    grammar is compiled at a time, and the first one also prepares the vocabulary.

    ``vocabulary`` None or without ``token_bytes``: every grammar is refused.
    """

    def __init__(self, vocabulary: object, rows: int, most_kept: int = MOST_KEPT) -> None:
        self._vocabulary, self._rows, self._most_kept = vocabulary, rows, most_kept
        self._compiler: Compiler | None = None
        self._kept: OrderedDict[str, Grammar | GrammarError] = OrderedDict()
        self._turn, self._access = threading.Lock(), threading.Lock()

    def known(self, params: StructuredOutputsParams) -> Grammar | None:
        """The grammar if it is kept. Raises GrammarError if what is kept is why there is none."""
        with self._access:
            found = self._kept.get(params.content)
            if found is not None:
                self._kept.move_to_end(params.content)
        if isinstance(found, GrammarError):
            raise GrammarError(str(found))
        return found

    def compile(self, params: StructuredOutputsParams) -> Grammar:
        """The grammar. Raises GrammarError in one line."""
        with self._turn:
            found = self.known(params)
            if found is None:
                try:
                    found = self._compiling().compile(params)
                except GrammarError as error:
                    self._keep(params, error)
                    raise
                self._keep(params, found)
        return found

    def prepare(self) -> None:
        """Have the vocabulary read."""
        with self._turn:
            self._compiling()

    def refuse(self, params: StructuredOutputsParams, reason: str) -> None:
        """Remember why there is no such grammar."""
        self._keep(params, GrammarError(reason))

    def _compiling(self) -> Compiler:
        if self._compiler is None:
            if not hasattr(self._vocabulary, "token_bytes"):
                raise GrammarError("structured output needs a tokenizer whose tokens are known as bytes")
            try:
                from forerun.grammar.library import Compiler
            except ImportError as error:
                raise GrammarError(f"structured output cannot be loaded ({error}); install forerun again") from None
            self._compiler = Compiler(cast("Vocabulary", self._vocabulary), self._rows)
        return self._compiler

    def _keep(self, params: StructuredOutputsParams, found: Grammar | GrammarError) -> None:
        with self._access:
            self._kept[params.content] = found
            while len(self._kept) > self._most_kept:
                self._kept.popitem(last=False)
