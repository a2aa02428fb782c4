"""Sampling parameters of a request, and every bound that they must keep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from forerun.engine.request_errors import RequestError
from forerun.errors import did_you_mean
from forerun.grammar import GrammarError, StructuredOutputsParams

_INT32_MAX = 2**31 - 1
_GREEDY_BELOW = 1e-5

# name -> (lowest, highest, kind, whether None is allowed); inclusive.
_RANGES: dict[str, tuple[float, float, type, bool]] = {
    "n": (1, _INT32_MAX, int, False),
    "max_tokens": (1, _INT32_MAX, int, True),
    "min_tokens": (0, _INT32_MAX, int, False),
    "temperature": (0.0, 100.0, float, False),
    "top_p": (1e-9, 1.0, float, False),
    "top_k": (0, _INT32_MAX, int, False),
    "min_p": (0.0, 1.0, float, False),
    "presence_penalty": (-2.0, 2.0, float, False),
    "frequency_penalty": (-2.0, 2.0, float, False),
    "repetition_penalty": (1e-2, 100.0, float, False),
    "seed": (-(2**63), 2**64 - 1, int, True),
    "logprobs": (0, _INT32_MAX, int, True),
    "prompt_logprobs": (0, _INT32_MAX, int, True),
    "priority": (-_INT32_MAX, _INT32_MAX, int, False),
    "length_penalty": (-10.0, 10.0, float, False),
}
_OTHER_NAMES = {
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "do_sample": "temperature",
    "num_return_sequences": "n",
    "stop_strings": "stop",
    "top_logprobs": "logprobs",
    "random_seed": "seed",
    "num_beams": "use_beam_search",
    "guided_decoding": "structured_outputs",
    "response_format": "structured_outputs",
}
"""What other libraries call them."""
_FLAGS = ("include_stop_str_in_output", "ignore_eos", "detokenize", "skip_special_tokens", "use_beam_search")
_ID_LISTS = ("stop_token_ids", "allowed_token_ids", "logprob_token_ids")
_LOGIT_BIAS_LIMIT = 100.0


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one request are drawn and when it ends. Wrong values raise RequestError at construction.

    - ``n``: answers per prompt; the engine makes n requests of them, answer i using ``seed + i``.
    - ``max_tokens`` None: as many as context and KV memory allow. ``min_tokens``: before that many tokens no end of
      sequence and no stop token can be drawn, and stop strings are not looked for.
    - ``temperature`` 0 (or below 1e-5) is greedy; ``top_k`` 0 or -1 is off; ``top_p`` 1 and ``min_p`` 0 are off.
    - ``presence_penalty``, ``frequency_penalty`` count output tokens; ``repetition_penalty`` prompt and output
      tokens.
    - ``seed`` None: drawn by the engine. Same seed, same prompt, same tokens, whatever else runs.
    - ``stop``: strings that end the text (cut off unless ``include_stop_str_in_output``); ``stop_token_ids``:
      tokens that do. ``ignore_eos``: the model's own end-of-sequence tokens do not.
    - ``logit_bias``: token id -> added to its logit, within [-100, 100]. ``allowed_token_ids``: nothing else can
      be drawn. ``bad_words_ids``: token sequences that are never completed.
    - ``logprobs``, ``prompt_logprobs`` None: none; 0: of the tokens themselves; k: and of the k most probable ones.
    - ``logprob_token_ids``: the log-probabilities of exactly these tokens beside the drawn one, instead of the most
      probable ones; all of them, the drawn token's too, of the model's own distribution, before any adjustment.
    - ``use_beam_search``: nothing is drawn; the answers are the ``n`` likeliest ones that a search with ``n`` beams
      finds, best first (engine/beams.py). ``length_penalty``: what the length is raised to that a sum of
      log-probabilities is divided by; above 0 favours long answers.
    - ``structured_outputs``: the form of the answer (forerun.grammar.StructuredOutputsParams).
    - ``priority``: lower is served earlier, under the "priority" policy. ``cache_salt``: prefixes are shared only
      between requests of the same salt.
    - ``detokenize`` False: token ids only, no text.
    """

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    priority: int = 0
    cache_salt: str = ""
    detokenize: bool = True
    skip_special_tokens: bool = True
    logprob_token_ids: tuple[int, ...] | None = None
    use_beam_search: bool = False
    length_penalty: float = 1.0
    structured_outputs: StructuredOutputsParams | Mapping[str, Any] | None = None

    def __new__(cls, *_: Any, **settings: Any) -> SamplingParams:
        """Refuse names that are none, with the one that may be meant."""
        known = cls.__dataclass_fields__
        for name in settings:
            if name not in known:
                meant = _OTHER_NAMES.get(name)
                hint = f" (did you mean '{meant}'?)" if meant else did_you_mean(name, known)
                raise RequestError(f"SamplingParams has no '{name}'{hint}", name)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        _normalise(self)
        for name in _RANGES:
            _check_range(name, getattr(self, name))
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} must be true or false", name)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})", "min_tokens")
        if any(not isinstance(word, str) or not word for word in self.stop):
            raise RequestError("stop must be a non-empty string or a list of them", "stop")
        if not isinstance(self.cache_salt, str):
            raise RequestError("cache_salt must be a string", "cache_salt")
        if not isinstance(self.structured_outputs, StructuredOutputsParams | None):
            raise RequestError("structured_outputs must be StructuredOutputsParams", "structured_outputs")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise RequestError("allowed_token_ids is empty: nothing could be drawn; leave it out", "allowed_token_ids")
        if self.use_beam_search:
            self._check_beams()
        for token, bias in self.logit_bias.items():
            if not _is_number(bias) or not abs(bias) <= _LOGIT_BIAS_LIMIT:
                raise RequestError(f"logit_bias of token {token} must be within [-100, 100], not {bias}", "logit_bias")

    def _check_beams(self) -> None:
        if self.stop:
            raise RequestError("stop strings are not looked for in beam search; use stop_token_ids", "stop")
        if self.logprob_token_ids:
            raise RequestError("logprob_token_ids is not supported with beam search", "logprob_token_ids")

    @property
    def scores_answer(self) -> bool:
        """Whether log-probabilities of the answer's tokens are asked for."""
        return self.logprobs is not None or bool(self.logprob_token_ids)


@dataclass(frozen=True)
class Limits:
    """Caps of one engine on what a request may ask for; ``vocab_size`` bounds every token id."""

    vocab_size: int
    max_n: int = 128
    max_logprobs: int = 20
    max_stop_strings: int = 16
    max_stop_length: int = 256
    max_stop_tokens: int = 256
    max_logit_bias: int = 1024
    max_bad_words: int = 1024
    max_salt_length: int = 256
    max_logprob_tokens: int = 128

    def check(self, params: SamplingParams) -> None:
        """Raise RequestError when ``params`` is above a cap or names a token that does not exist."""
        counts = (
            ("n", params.n, self.max_n),
            ("logprobs", params.logprobs or 0, self.max_logprobs),
            ("prompt_logprobs", params.prompt_logprobs or 0, self.max_logprobs),
            ("number of stop strings", len(params.stop), self.max_stop_strings),
            ("length of a stop string", max(map(len, params.stop), default=0), self.max_stop_length),
            ("number of stop_token_ids", len(params.stop_token_ids), self.max_stop_tokens),
            ("number of logit_bias entries", len(params.logit_bias), self.max_logit_bias),
            ("number of allowed_token_ids", len(params.allowed_token_ids or ()), self.vocab_size),
            ("number of logprob_token_ids", len(params.logprob_token_ids or ()), self.max_logprob_tokens),
            ("number of bad words", len(params.bad_words_ids), self.max_bad_words),
            ("length of cache_salt", len(params.cache_salt), self.max_salt_length),
        )
        for what, value, cap in counts:
            if value > cap:
                raise RequestError(f"{what} is {value}; this server allows at most {cap}", what.split()[-1])
        self.check_ids("stop_token_ids", params.stop_token_ids)
        self.check_ids("allowed_token_ids", params.allowed_token_ids or ())
        self.check_ids("logprob_token_ids", params.logprob_token_ids or ())
        self.check_ids("logit_bias", params.logit_bias)
        for word in params.bad_words_ids:
            self.check_ids("bad_words_ids", word)
            if not word:
                raise RequestError("a bad word has no tokens", "bad_words_ids")

    def check_ids(self, name: str, ids: Iterable[int]) -> None:
        """Raise RequestError unless all ``ids`` are token ids of the vocabulary."""
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < self.vocab_size:
                raise RequestError(f"{name}: {token!r} is no token id of a vocabulary of {self.vocab_size}", name)


def _normalise(params: SamplingParams) -> None:
    """Accept lists for tuples, one stop string for a list, None for a default, and fold values that mean the same."""
    put = object.__setattr__
    for item in fields(params):
        value: Any = getattr(params, item.name)
        if value is None and item.name in ("stop", "stop_token_ids", "bad_words_ids"):
            put(params, item.name, ())
        elif value is None and item.name == "logit_bias":
            put(params, item.name, {})
        elif value is None and item.name == "cache_salt":
            put(params, item.name, "")
    if isinstance(params.stop, str):
        put(params, "stop", (params.stop,))
    for name in ("stop", *_ID_LISTS, "bad_words_ids"):
        value = getattr(params, name)
        if value is not None:
            put(params, name, _as_tuple(name, value))
    put(params, "bad_words_ids", tuple(_as_tuple("bad_words_ids", word) for word in params.bad_words_ids))
    if not isinstance(params.logit_bias, Mapping):
        raise RequestError("logit_bias must map token ids to numbers", "logit_bias")
    put(params, "logit_bias", dict(params.logit_bias))
    if isinstance(params.structured_outputs, Mapping):
        try:
            put(params, "structured_outputs", StructuredOutputsParams(**params.structured_outputs))
        except GrammarError as error:
            raise RequestError(f"structured_outputs: {error}", "structured_outputs") from None
    if params.top_k == -1:
        put(params, "top_k", 0)
    if _is_number(params.temperature) and 0 <= params.temperature < _GREEDY_BELOW:
        put(params, "temperature", 0.0)


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence | frozenset | set):
        raise RequestError(f"{name} must be a list", name)
    return tuple(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _check_range(name: str, value: Any) -> None:
    low, high, kind, optional = _RANGES[name]
    if value is None and optional:
        return
    if not _is_number(value) or (kind is int and not isinstance(value, int)):
        noun = "a whole number" if kind is int else "a finite number"
        raise RequestError(f"{name} must be {noun}, not {value!r}", name)
    if not low <= value <= high:
        bound = f"at least {low:g}" if value < low else f"at most {high:g}"
        raise RequestError(f"{name} must be {bound}, not {value!r}", name)
