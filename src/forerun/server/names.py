"""Which names of a request count: its own, harmless ones, those that are refused, and unknown ones.

Clients send more than the OpenAI API has: nulls for everything that is not used, the switches of other servers, notes
to themselves. What says "not used" passes everywhere, at every depth. What could change the answer and is not here is
refused by name, and so is a near-miss of a name that counts. Everything else is ignored, and the answer says so.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticCustomError

from forerun.server.server_settings import Caps

NEUTRAL: tuple[Any, ...] = (None, False, "", [], {})
_NEAR = 0.82  # how alike two names are when one is taken for a misspelling of the other
_NAME_CHARS = 64

Neutral = tuple[Any, ...] | Callable[[Any, Mapping[str, Any]], bool]
Refusals = Mapping[str, tuple[str, Neutral]]
"""Name -> (why, the values that mean "not used", or a test of the value and the object around it)."""


@dataclass
class Reading:
    """How one body is read, and what was found in it.

    ``strict``: unknown names are refused. ``ignored``: those that were not, as ``name`` or ``messages[].name``.
    """

    caps: Caps = field(default_factory=Caps)
    strict: bool = False
    ignored: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class Names:
    """The names of one kind of object besides its own fields. ``place`` leads to it, as in ``messages[].``.

    ``harmless`` ones cannot change an answer. ``closed``: unknown names are refused, because they would have a meaning.
    ``keeps_nulls``: that a name came with null matters.
    """

    place: str = ""
    harmless: Collection[str] = ()
    refused: Refusals = field(default_factory=dict)
    closed: bool = False
    keeps_nulls: bool = False

    def settle(self, data: Mapping[str, Any], known: Collection[str], reading: Reading) -> dict[str, Any]:
        """The entries of ``data`` that count: those whose names are ``known``, without nulls.

        Raises PydanticCustomError whose context has the ``name`` at fault.
        """
        kept: dict[str, Any] = {}
        for name, value in data.items():
            if name in known:
                if value is not None or self.keeps_nulls:
                    kept[name] = value
            elif name in self.refused:
                why, neutral = self.refused[name]
                if not _is_neutral(value, neutral, data):
                    raise _fault("unsupported_parameter", name, f"not supported: {why}")
            elif name not in self.harmless:
                self._unknown(name, value, known, reading)
        return kept

    def _unknown(self, name: str, value: Any, known: Collection[str], reading: Reading) -> None:
        neutral = _is_neutral(value, NEUTRAL, {})
        if reading.strict or not neutral:
            near = near_miss(name, (*known, *self.refused))
            if near is not None:
                raise _fault("unknown_parameter", name, f"unknown parameter (did you mean '{near}'?)")
            if self.closed:
                raise _fault("unknown_parameter", name, f"unknown here; what can be set is {', '.join(known)}")
            if reading.strict:
                raise _fault("unknown_parameter", name, "unknown parameter")
        if not neutral:
            reading.ignored[self.place + name[:_NAME_CHARS]] = None


def near_miss(word: str, known: Sequence[str]) -> str | None:
    """The name that ``word`` must be a misspelling of, if there is one: ``maxTokens`` is one of ``max_tokens``."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", word[:_NAME_CHARS]).lower()
    close = difflib.get_close_matches(snake, known, n=1, cutoff=_NEAR)
    return close[0] if close else None


def _fault(kind: str, name: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{message}", {"message": message, "name": name[:_NAME_CHARS]})


def _is_neutral(value: Any, neutral: Neutral, data: Mapping[str, Any]) -> bool:
    if callable(neutral):
        return neutral(value, data)
    return any(type(value) is type(item) and value == item for item in neutral)


# ---- the names of generation requests ----


def _as_many_as_n(value: Any, data: Mapping[str, Any]) -> bool:
    return value is None or (type(value) in (int, float) and value == (data.get("n") or 1))


_TOOLS = "only chats have tools"
_FUNCTIONS = "send tools and tool_choice"
_GRAMMAR = "send structured_outputs, or response_format"
_TEMPLATE = "the model's own chat template is always used"
_TEXT = "this is a text-only server"
_REASONING = "reasoning models are not in this version"
_IDS = "use return_token_ids"

REQUEST_NAMES = Names(
    harmless=frozenset(
        (
            "user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
            "service_tier", "session_id", "stream_interval", "include_reasoning", "parallel_tool_calls",
            "guided_decoding_backend", "models",
        )
    ),
    refused={
        "tools": (_TOOLS, NEUTRAL),
        "tool_choice": (_TOOLS, (None, "none", "auto")),
        "functions": (_FUNCTIONS, NEUTRAL),
        "function_call": (_FUNCTIONS, (None, "none", "auto")),
        "json_schema": (_GRAMMAR, NEUTRAL),
        "grammar": (_GRAMMAR, NEUTRAL),
        "ebnf": (_GRAMMAR, NEUTRAL),
        "regex": (_GRAMMAR, NEUTRAL),
        "chat_template": (_TEMPLATE, (None, "")),
        "documents": (_TEMPLATE, NEUTRAL),
        "suffix": ("filling in is not in this version", NEUTRAL),
        "early_stopping": ("a search goes on until nothing better can come", (None, False)),
        "best_of": ("every one of n answers is returned", _as_many_as_n),
        "modalities": (_TEXT, (None, [], ["text"])),
        "audio": (_TEXT, NEUTRAL),
        "mm_processor_kwargs": (_TEXT, NEUTRAL),
        "media_io_kwargs": (_TEXT, NEUTRAL),
        "prediction": ("predicted outputs are not in this version", NEUTRAL),
        "reasoning": (_REASONING, NEUTRAL),
        "reasoning_effort": (_REASONING, NEUTRAL),
        "thinking_token_budget": (_REASONING, (None,)),
        "verbosity": ("the model has no such switch", (None, "medium")),
        "web_search_options": ("this server makes no outgoing requests", (None,)),
        "spaces_between_special_tokens": ("text is always the exact bytes of its tokens", (None, True)),
        "detokenize": ("answers are text; use return_token_ids for the tokens", (None, True)),
        "logits_processors": ("no code is taken from requests", NEUTRAL),
        "prompt_embeds": ("prompts are text or token ids", NEUTRAL),
        "repetition_detection": ("use repetition_penalty", NEUTRAL),
        "watermarking": ("tokens are never watermarked", (None, False)),
        "return_token_offsets": (_IDS, (None, False)),
        "return_prompt_text": (_IDS, (None, False)),
        "kv_transfer_params": ("keys and values stay in this server", NEUTRAL),
        "vllm_xargs": ("there are no extensions here", NEUTRAL),
    },
)  # fmt: skip

_ALONE = "responses are not kept; send the whole conversation as input"


def _no_scores(value: Any, data: Mapping[str, Any]) -> bool:
    return not isinstance(value, list) or "message.output_text.logprobs" not in value


RESPONSES_NAMES = Names(
    harmless=frozenset(
        (
            "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
            "max_tool_calls", "stream_options",
        )
    ),
    refused={
        "store": (f"{_ALONE} (store: false)", NEUTRAL),
        "previous_response_id": (_ALONE, NEUTRAL),
        "conversation": (_ALONE, NEUTRAL),
        "background": ("a response comes with its request", NEUTRAL),
        "prompt": ("no prompts are kept; send instructions and input", NEUTRAL),
        "include": ("log-probabilities are in /v1/chat/completions", _no_scores),
        "top_logprobs": ("log-probabilities are in /v1/chat/completions", (None, 0)),
        "truncation": ("a conversation that is too long is an error", (None, "disabled")),
        "max_tokens": ("send max_output_tokens", (None,)),
        "messages": ("send input", NEUTRAL),
        "response_format": ("send text.format", NEUTRAL),
        "stop": ("stop strings are in /v1/chat/completions", NEUTRAL),
        "n": ("there is one answer", (None, 1)),
    },
)  # fmt: skip
TEXT_NAMES = Names(place="text.", harmless=frozenset(("verbosity",)))

# ---- the names inside of a request ----

MESSAGE_NAMES = Names(
    place="messages[].",
    harmless=frozenset(("id", "annotations", "cache_control", "reasoning_details", "metadata", "timestamp")),
    refused={
        "function_call": ("send tool_calls", NEUTRAL),
        "audio": (_TEXT, NEUTRAL),
        "images": (_TEXT, NEUTRAL),
        "prefix": ("send continue_final_message beside the messages", NEUTRAL),
    },
)
PART_NAMES = Names(place="messages[].content[].", harmless=frozenset(("id", "annotations", "cache_control")))
TOOL_NAMES = Names(place="tools[].", harmless=frozenset(("cache_control",)))
FUNCTION_NAMES = Names(place="tools[].function.")
CALL_NAMES = Names(place="messages[].tool_calls[].", harmless=frozenset(("index", "cache_control")))
CALLED_NAMES = Names(place="messages[].tool_calls[].function.")
STREAM_NAMES = Names(place="stream_options.", harmless=frozenset(("include_obfuscation",)), keeps_nulls=True)
TEMPLATE_NAMES = Names(place="chat_template_kwargs.", closed=True)
TRANSFER_NAMES = Names(place="kv_transfer_params.", closed=True)
