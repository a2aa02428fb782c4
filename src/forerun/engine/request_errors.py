"""What can go wrong with one request. The server turns each class into one HTTP status."""

from __future__ import annotations

from forerun.errors import ForerunError

NO_TOKEN = "allowed_token_ids, bad words, min_tokens and structured output leave no token that could be drawn"
"""Said of a request that forbids every token, at once or after some of its answer."""
TOO_COMPLEX = "the form that is asked for became too complex"
"""Said of a grammar that is too much work on the way."""

PART_LOST = "a process that has a part of the model is gone or silent; ask again when it is back"
"""Said of requests whose executor is lost; the log says more."""


class RequestError(ForerunError):
    """A request that can never be served as it stands (HTTP 400). ``param`` names the offending parameter, if one
    does; ``code`` the kind of fault, if programs know one."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextOverflowError(RequestError):
    """More tokens than the context takes; worded as the OpenAI API words it, because clients look for that."""

    def __init__(self, limit: int, what: str, param: str) -> None:
        """``limit``: the context, in tokens. ``what``: what is too long, as a sentence."""
        super().__init__(
            f"This model's maximum context length is {limit} tokens. {what}", param, "context_length_exceeded"
        )


class QueueFullError(ForerunError):
    """More requests than the queue takes (HTTP 429). ``retry_after`` is a hint in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineStoppedError(ForerunError):
    """The engine takes no more requests: it is shutting down, or it died (HTTP 503)."""
