"""From a request's fields to SamplingParams, with the server's defaults for what the request leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forerun.config import OnDeviceSamplingConfig
from forerun.engine import RequestError, SamplingParams
from forerun.errors import ConfigError
from forerun.server.api_error import ApiError
from forerun.server.protocol import ChatRequest, CompletionRequest, GenerationRequest

_SHARED = (
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "allowed_token_ids",
    "priority",
    "skip_special_tokens",
    "use_beam_search",
    "length_penalty",
)
_DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class SamplingDefaults:
    """What a request gets that does not say otherwise."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


def sampling_defaults(
    configured: OnDeviceSamplingConfig | None, generation_config: Mapping[str, Any]
) -> SamplingDefaults:
    """Defaults of a model: its on-device sampling configuration if it has one, else its generation_config.json, else
    OpenAI's (temperature 1). A greedy configuration means temperature 0 and no cuts, so that a request which asks for
    a temperature really samples."""
    if configured is not None:
        if configured.greedy:
            return SamplingDefaults(temperature=0.0)
        return SamplingDefaults(configured.temperature, configured.top_p, configured.effective_top_k, configured.min_p)
    found: dict[str, Any] = {}
    try:
        for name in _DEFAULTED:
            value = generation_config.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[name] = int(value) if name == "top_k" else float(value)
        SamplingParams(**found)
    except (RequestError, ValueError, OverflowError):  # values that no request could have
        return SamplingDefaults()
    if generation_config.get("do_sample") is False:
        found["temperature"] = 0.0
    return SamplingDefaults(**found)


def overridden(defaults: SamplingDefaults, values: Mapping[str, Any]) -> SamplingDefaults:
    """``defaults`` with an operator's ``values`` by name. Raises ConfigError for what no request could say."""
    unknown = next((name for name in values if name not in _DEFAULTED), None)
    if unknown is not None:
        raise ConfigError(f"--override-generation-config {unknown} is not here: use {', '.join(_DEFAULTED)}")
    try:
        SamplingParams(**values)
    except (RequestError, TypeError) as error:
        raise ConfigError(f"--override-generation-config: {error}") from None
    return replace(defaults, **values)


def sampling_params(
    request: CompletionRequest | ChatRequest,
    defaults: SamplingDefaults,
    *,
    vocab_size: int,
    salt: str,
    bad_words_ids: Sequence[Sequence[int]],
) -> SamplingParams:
    """The parameters that the engine gets. Raises ApiError or RequestError for combinations that make no sense.

    ``vocab_size`` is what -1 log-probabilities are.
    """
    values: dict[str, Any] = {name: getattr(request, name) for name in _SHARED if getattr(request, name) is not None}
    for name in _DEFAULTED:
        given = getattr(request, name)
        values[name] = getattr(defaults, name) if given is None else given
    logprobs = _of_all(_logprobs(request), vocab_size)
    named = _named_tokens(request, logprobs)
    return SamplingParams(
        n=request.n or 1,
        max_tokens=_max_tokens(request),
        stop=tuple(request.stop or ()),
        logit_bias=_logit_bias(request),
        logprobs=None if named else logprobs,
        logprob_token_ids=named,
        prompt_logprobs=_of_all(_prompt_logprobs(request), vocab_size),
        cache_salt=salt,
        bad_words_ids=tuple(tuple(word) for word in bad_words_ids),
        **values,
    )


def _named_tokens(request: CompletionRequest | ChatRequest, logprobs: int | None) -> tuple[int, ...] | None:
    """Whose log-probabilities are asked for, in place of those of the most probable tokens."""
    if not request.logprob_token_ids:
        return None
    name = "logprob_token_ids"
    if logprobs is None:
        raise ApiError(400, f"{name} needs logprobs", param=name)
    if request.max_tokens == 0:
        raise ApiError(400, f"{name} needs tokens that are generated: max_tokens is 0", param=name)
    return tuple(request.logprob_token_ids)


def _max_tokens(request: CompletionRequest | ChatRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        if request.max_tokens == 0:
            if not request.echo and request.prompt_logprobs is None:
                raise ApiError(400, "max_tokens: 0 leaves nothing to do without echo", param="max_tokens")
            return 1  # drawn, and not shown
        return request.max_tokens
    both = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(both) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; send one of them", param="max_tokens")
    return both.pop() if both else None


def _logprobs(request: CompletionRequest | ChatRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return None


def _of_all(count: int | None, vocab_size: int) -> int | None:
    return vocab_size if count == -1 else count


def _prompt_logprobs(request: CompletionRequest | ChatRequest) -> int | None:
    """Scores of the prompt, for their own sake or because the prompt is echoed with scores."""
    asked = request.prompt_logprobs
    if asked is not None and request.stream:
        raise ApiError(400, "prompt_logprobs cannot be streamed; send stream: false", param="prompt_logprobs")
    if isinstance(request, CompletionRequest) and request.echo and request.logprobs is not None:
        if request.stream and (request.n or 1) > 1:
            raise ApiError(400, "echo with logprobs and n > 1 cannot be streamed", param="echo")
        return -1 if -1 in (asked, request.logprobs) else max(asked or 0, request.logprobs)
    return asked


def _logit_bias(request: GenerationRequest) -> dict[int, float]:
    """Token ids are JSON keys, so they come as text."""
    given = request.logit_bias or {}
    wrong = [key[:40] for key in given if not (key.isascii() and key.isdigit() and len(key) <= 10)]
    if wrong:
        named = ", ".join(f"'{key}'" for key in wrong[:8])
        raise ApiError(400, f"logit_bias: {named} {'is' if len(wrong) == 1 else 'are'} no token id", param="logit_bias")
    bias: dict[int, float] = {}
    for key, value in given.items():
        if int(key) in bias:
            raise ApiError(400, f"logit_bias: token {int(key)} is named twice", param="logit_bias")
        bias[int(key)] = value
    return bias
