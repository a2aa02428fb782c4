"""Parameters of the OpenAI API and of its relatives that this server does not honour: refused by name, or neutral.

A neutral value (what a client library sends for "not used") passes. Only what OpenAI itself defines as a note to the
operator is ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from forerun.server.errors import ApiError

IGNORED = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")

_TOOLS = "tool calls are not in this version"
_GRAMMAR = "structured output is not in this version"
_TEMPLATE = "the model's own chat template is always used"
_TEXT = "this is a text-only server"
_EMPTY: tuple[Any, ...] = (None, False, "", [], {})

# name -> (why, the values that mean "not used")
REFUSED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "tools": (_TOOLS, _EMPTY),
    "tool_choice": (_TOOLS, (None, "none", "auto")),
    "parallel_tool_calls": (_TOOLS, (None, False, True)),
    "functions": (_TOOLS, _EMPTY),
    "function_call": (_TOOLS, (None, "none", "auto")),
    "response_format": (_GRAMMAR, (None, {"type": "text"})),
    "structured_outputs": (_GRAMMAR, _EMPTY),
    "guided_json": (_GRAMMAR, _EMPTY),
    "guided_regex": (_GRAMMAR, _EMPTY),
    "guided_choice": (_GRAMMAR, _EMPTY),
    "guided_grammar": (_GRAMMAR, _EMPTY),
    "chat_template": (_TEMPLATE, (None,)),
    "documents": (_TEMPLATE, _EMPTY),
    "continue_final_message": ("the last message is always complete", (None, False)),
    "suffix": ("filling in is not in this version", _EMPTY),
    "use_beam_search": ("beam search is not in this version", (None, False)),
    "length_penalty": ("beam search is not in this version", (None, 1, 1.0)),
    "early_stopping": ("beam search is not in this version", (None, False)),
    "truncate_prompt_tokens": ("prompts are never cut; send a shorter one", (None,)),
    "modalities": (_TEXT, (None, ["text"])),
    "audio": (_TEXT, (None,)),
    "mm_processor_kwargs": (_TEXT, _EMPTY),
    "prediction": ("predicted outputs are not in this version", (None,)),
    "reasoning_effort": ("reasoning models are not in this version", (None,)),
    "reasoning": ("reasoning models are not in this version", (None,)),
    "include_reasoning": ("reasoning models are not in this version", (None, False, True)),
    "verbosity": ("the model has no such switch", (None,)),
    "web_search_options": ("this server makes no outgoing requests", (None,)),
    "service_tier": ("there is one tier here", (None, "auto", "default")),
    "spaces_between_special_tokens": ("text is always the exact bytes of its tokens", (None, True)),
    "detokenize": ("answers are text; use return_token_ids for the tokens", (None, True)),
    "logits_processors": ("no code is taken from requests", _EMPTY),
    "prompt_embeds": ("prompts are text or token ids", (None,)),
    "return_tokens_as_token_ids": ("use return_token_ids", (None, False)),
    "echo": ("only /v1/completions can echo", (None, False)),
    "best_of": ("every one of n answers is returned", (None,)),
}


def drop_unsupported(data: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return ``data`` without ignored names and neutral values.

    ``known`` names are the request's own and pass as they are. Raises ApiError 400 for what cannot be honoured.
    """
    kept: dict[str, Any] = {}
    for name, value in data.items():
        if name in known:
            kept[name] = _stream_options(value) if name == "stream_options" else value
        elif name in REFUSED:
            why, neutral = REFUSED[name]
            if not _is_one_of(value, neutral) and not (name == "best_of" and _equals_n(value, data)):
                raise ApiError(400, f"{name} is not supported: {why}", param=name, code="unsupported_parameter")
        elif name not in IGNORED:
            kept[name] = value
    return kept


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(type(value) is type(item) and value == item for item in neutral)


def _equals_n(value: Any, data: Mapping[str, Any]) -> bool:
    return type(value) is int and value == (data.get("n") or 1)


def _stream_options(value: Any) -> Any:
    """Without the switches of other servers when they are off."""
    if not isinstance(value, dict):
        return value
    for name in ("continuous_usage_stats", "include_obfuscation"):
        if value.get(name) not in (None, False):
            raise ApiError(400, f"stream_options.{name} is not supported", param=f"stream_options.{name}")
    return {k: v for k, v in value.items() if k not in ("continuous_usage_stats", "include_obfuscation")}
