"""The grammar library, llguidance: the one file that knows it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import any_to_lark
from numpy.typing import NDArray

from forerun.errors import one_line
from forerun.grammar.params import GrammarError, StructuredOutputsParams
from forerun.grammar.places import place_of
from forerun.grammar.rules import json_rule, rules_of, schemas_of

UInt32 = NDArray[np.uint32]

NOTHING = "no answer has this form"
_MOST_CHARS = 300
_PLACE = re.compile(r"^(at )?\d+\(\d+\): ")
_KEYWORDS = re.compile(r"^Unimplemented keys: \[(.*)\]$")


_LIMITS = llguidance.LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000, verbose_errors=False)


def lark_of_any(grammar: str) -> str:
    """A grammar in GBNF or Lark, in Lark. Raises GrammarError."""
    try:
        rules: str = any_to_lark(grammar)
    except (Exception, RecursionError) as error:
        raise GrammarError(f"grammar: {_reason(str(error))}") from None
    return rules


def regex_between_slashes(regex: str) -> str:
    """A regular expression as the rules of a grammar have it."""
    return llguidance.regex_to_lark(regex, "d")


def schema_between(schema: Mapping[str, Any], white_space: str | None) -> str:
    """A JSON schema as the rules of a grammar have it, with what may stand between its parts; None: nothing."""
    options = {"whitespace_flexible": False} if white_space is None else {"whitespace_pattern": white_space}
    return "%json " + json.dumps({**schema, "x-guidance": options})


def _reason(text: str) -> str:
    """The library's words without the places in rules that nobody wrote."""
    lines = text.strip().split("\n")
    if lines[0] == "NoExtensionBias":
        return NOTHING
    first = _PLACE.sub("", lines[0]).removeprefix("failed to compile JSON schema: ").partition(". Enable ")[0]
    keywords = _KEYWORDS.match(first)
    if keywords:
        return one_line(f"JSON schemas with {keywords[1]} are not supported", _MOST_CHARS)
    why = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
    return one_line(f"{first} {why}".strip(), _MOST_CHARS) or "it is too complex"


class Vocabulary(Protocol):
    """What a grammar has to know of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Highest id + 1."""
        ...

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """Tokens that end a generation."""
        ...

    @property
    def special_token_ids(self) -> Collection[int]:
        """Tokens that are no text."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token in the middle of a text."""
        ...


class GrammarState:
    """Where one answer is in its grammar. Used from one thread at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, words: int) -> None:
        self._matcher, self._words = matcher, words

    def fill(self, row: UInt32) -> None:
        """Set the bit of every token that may come next, and of no other. Raises GrammarError when that is too much
        work."""
        if len(row) != self._words or not row.flags.c_contiguous:
            raise ValueError(f"a mask has {self._words} words in a row, not {len(row)}")
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._matcher.is_error():
            raise GrammarError(_reason(self._matcher.get_error()))

    def accept(self, token: int) -> bool:
        """Go on with ``token``; False, and nothing changes, where it may not come."""
        return self._matcher.try_consume_tokens([token]) == 1

    def rollback(self, tokens: int) -> None:
        """Take back the last ``tokens`` accepted ones."""
        if tokens:
            self._matcher.rollback(tokens)

    @property
    def may_end(self) -> bool:
        """Whether the answer has its form as it is."""
        return bool(self._matcher.is_accepting())

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())


class Grammar:
    """A compiled grammar, which any number of answers may start with, from any thread."""

    def __init__(self, matcher: llguidance.LLMatcher, words: int, eos_ids: tuple[int, ...]) -> None:
        self._matcher, self.words, self.eos_ids = matcher, words, eos_ids

    def start(self) -> GrammarState:
        """The state of an answer without tokens."""
        return GrammarState(self._matcher.deep_copy(), self.words)


class Compiler:
    """Compiles grammars for one vocabulary, of which the executor knows ``rows`` tokens."""

    def __init__(self, vocabulary: Vocabulary, rows: int) -> None:
        """Takes some tenths of a second. Raises GrammarError for a vocabulary that the library does not take."""
        known = min(rows, vocabulary.vocab_size)
        self._eos_ids = tuple(token for token in vocabulary.eos_token_ids if token < rows) or (rows - 1,)
        self._words = -(-rows // 32)
        spelled = {token: vocabulary.token_bytes(token) for token in vocabulary.special_token_ids if token < known}
        self._special = {text.decode("utf-8", "replace"): token for token, text in spelled.items() if text}
        tokens = _Tokens(vocabulary, known, rows, self._eos_ids[0])
        try:
            wrapped = llguidance.TokenizerWrapper(tokens)
            self._tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=rows, eos_token=list(self._eos_ids))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library's panics are not even Exceptions
            reason = one_line(str(error), _MOST_CHARS)
            raise GrammarError(f"the model's tokenizer does not serve for structured output: {reason}") from None

    def compile(self, params: StructuredOutputsParams) -> Grammar:
        """Raises GrammarError with the library's reason in one line, behind the part of a schema that is at fault."""
        try:
            return self._compiled(rules_of(params, self._special))
        except GrammarError as error:
            place = self._place(params)
            raise GrammarError(f"{place}: {error}" if place else str(error)) from None

    def _place(self, params: StructuredOutputsParams) -> str:
        """The path to what is at fault in the first schema that is; of a structural tag, from the tag on."""

        def reason_of(part: Mapping[str, Any]) -> str:
            try:
                self._compiled(f"start: {json_rule(part, params)}")
            except GrammarError as error:
                return str(error)
            return ""

        for name, schema in schemas_of(params):
            if reason_of(schema):
                path = place_of(schema, reason_of)
                return one_line(": ".join(part for part in (name, path) if part), _MOST_CHARS)
        return ""

    def _compiled(self, rules: str) -> Grammar:
        # Without forcing: every way to spell the text in tokens stays open, and no tokenizer is asked.
        text = '%llguidance {"no_forcing": true}\n' + rules
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(_reason(matcher.get_error()))
        grammar = Grammar(matcher, self._words, self._eos_ids)
        first = grammar.start()
        mask = np.zeros(self._words, np.uint32)
        first.fill(mask)
        for token in self._eos_ids:
            mask[token // 32] &= ~np.uint32(1 << token % 32)
        if not mask.any():
            raise GrammarError("only the empty answer has this form" if first.may_end else NOTHING)
        return grammar


class _Tokens:
    """A vocabulary as the library reads it."""

    def __init__(self, vocabulary: Vocabulary, known: int, rows: int, eos: int) -> None:
        self.tokens = [vocabulary.token_bytes(token) for token in range(known)] + [b""] * (rows - known)
        self.special_token_ids = [token for token in vocabulary.special_token_ids if token < rows]
        self.eos_token_id, self.bos_token_id = eos, None

    def __call__(self, text: object) -> list[int]:
        """What nobody asks for without forcing."""
        return []
