"""What the server allows and how it behaves; none of it changes a token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from forerun.engine.params import Limits
from forerun.errors import ConfigError

NO_CAP = 2**31 - 1  # a number that no request passes


@dataclass(frozen=True)
class Caps:
    """Upper bounds on what one request may ask for. Above them: HTTP 400, or 413 for the body.

    Sizes are counts unless the name says bytes or chars. ``prompt_chars`` bounds the text that is tokenised (0: 32
    per token of the context, which real text never reaches); ``prompts`` the prompts of one completion request.
    """

    body_bytes: int = 1 << 20
    header_bytes: int = 16 << 10
    prompt_chars: int = 0
    prompts: int = 64
    messages: int = 4096
    tools: int = 128
    tool_calls: int = 256
    n: int = 128
    logprobs: int = 20
    stop_strings: int = 16
    stop_chars: int = 256
    stop_tokens: int = 256
    logit_bias: int = 1024
    bad_words: int = 256
    salt_chars: int = 200
    logprob_tokens: int = 128
    connections: int = 4096

    def for_engine(self, vocab_size: int) -> Limits:
        """The same caps as the engine checks them (it has the last word)."""
        return Limits(
            vocab_size,
            max_n=self.n,
            max_logprobs=self.logprobs,
            max_stop_strings=self.stop_strings,
            max_stop_length=self.stop_chars,
            max_stop_tokens=self.stop_tokens,
            max_logit_bias=self.logit_bias,
            max_bad_words=2 * self.bad_words,
            max_salt_length=self.salt_chars + 16,
            max_logprob_tokens=self.logprob_tokens,
        )


@dataclass(frozen=True)
class Timeouts:
    """Seconds. ``header``: from a request's first byte to the end of its headers; ``body``: for reading the body;
    ``send``: how long a client may leave the connection's buffer full; ``text``: for tokenising or rendering one
    prompt; ``keep_alive``: idle connections; ``shutdown``: how long requests may go on after SIGTERM.
    """

    header: float = 10.0
    body: float = 30.0
    send: float = 30.0
    text: float = 20.0
    keep_alive: float = 30.0
    shutdown: float = 30.0


@dataclass(frozen=True)
class Cors:
    """Which web pages may use the server from a browser; ``*`` among the names means all."""

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server. The first of ``served_names`` is the one that answers carry.

    ``api_keys`` empty: no key is asked for. ``admin_api_key`` None: admin routes are closed. ``pending_deltas``: news
    of one request that may wait for a slow reader before it is aborted. ``request_log``: one line per request,
    in ``request_log_form`` "json" or "text" (for people).
    ``log_level``: the least level of uvicorn's lines and ours. ``model_defaults``: whether requests are sampled as the
    model's generation_config.json says where they say nothing; ``default_overrides`` go over that.
    ``strict_requests``: unknown names in requests are refused. ``sse_keep_alive``: seconds without news after which a
    stream gets a comment; 0: never. ``tokenizer_info``: whether /tokenizer_info is there. ``root_path``: where a proxy
    puts the server, "" or "/name"; routes are there with it and without. ``page``: whether browsers get one at ``/``.
    ``token_ids_as_names``: log-probabilities name tokens by their ids where a request does not say. ``force_usage``:
    every chunk of every stream has the usage so far.
    ``request_metrics``: answers have their own times. ``tool_call_parser``, ``reasoning_parser``: how the model writes
    calls and thoughts (None: as its chat template shows; a reasoning parser of "none": thoughts are text).
    ``tools_without_calls``: the template gets the tools even where none may be called. ``replica``: the number of this
    one among equal servers behind a front, which alone can reach it; None: it stands alone.
    """

    served_names: tuple[str, ...] = ("model",)
    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    api_keys: tuple[str, ...] = ()
    admin_api_key: str | None = None
    caps: Caps = field(default_factory=Caps)
    timeouts: Timeouts = field(default_factory=Timeouts)
    pending_deltas: int = 1024
    request_log: bool = True
    request_log_form: Literal["json", "text"] = "json"
    log_level: str = "info"
    model_defaults: bool = True
    default_overrides: Mapping[str, Any] = field(default_factory=dict)
    strict_requests: bool = False
    sse_keep_alive: float = 0.0
    tokenizer_info: bool = False
    root_path: str = ""
    page: bool = True
    token_ids_as_names: bool = False
    force_usage: bool = False
    request_metrics: bool = False
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    tools_without_calls: bool = True
    cors: Cors | None = None
    replica: int | None = None

    def __post_init__(self) -> None:
        if not self.served_names:
            raise ConfigError("served_names is empty: give the model at least one name")
        if any(not key for key in (*self.api_keys, *(() if self.admin_api_key is None else (self.admin_api_key,)))):
            raise ConfigError("an API key is empty: give it characters, or leave it out")

    def serves(self, model: str) -> bool:
        """Whether ``model`` is a name of the served model; a slash at its end does not matter."""
        return model.rstrip("/") in {name.rstrip("/") for name in self.served_names}

    def salt_of(self, asked: str | None, key: bytes | None) -> str:
        """The prefix cache's salt: what the request says, else the API key's identity when there are several keys.

        The two cannot meet: a client that names a salt shares it with those who name it too, with nobody else.
        """
        if asked is not None:
            return f"user:{asked}"
        if key is None or len(self.api_keys) < 2:
            return ""
        return "key:" + hashlib.sha256(key).hexdigest()[:8]
