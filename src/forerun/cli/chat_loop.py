"""The loop of ``forerun chat``: a line is read, it is a command or it gets an answer."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from forerun.cli.conversation import Conversation
from forerun.engine.engine import Engine
from forerun.engine.outputs import FINISH_ABORT, FINISH_LENGTH, Delta
from forerun.engine.params import SamplingParams
from forerun.errors import ForerunError, one_line

LONGEST_ANSWER = 1024
MOST_CHARS = 1 << 20
HELP = """/system TEXT   set the system message (alone: show it; "/system -" takes it away)
/reset         forget the conversation, keep the system message
/forget        forget the oldest question and its answer
/save FILE     write the conversation as JSON; /load FILE goes on with one
/help          this; Ctrl-C stops an answer, Ctrl-D ends"""


class ChatTokenizer(Protocol):
    """What a chat needs of a tokenizer."""

    def apply_chat_template(self, messages: Sequence[Any], **variables: Any) -> str: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...


class ChatLoop:
    """One conversation with one engine. Answers go to the standard output, everything else to standard error."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: ChatTokenizer,
        params: SamplingParams,
        conversation: Conversation,
        *,
        stats: bool = True,
    ) -> None:
        self.conversation = conversation
        self._engine = engine
        self._tokenizer = tokenizer
        self._params = params
        self._stats = stats
        self._turns = 0

    def run(self) -> None:
        """Talk until the input ends."""
        for line in _lines():
            text = line.strip()
            if not text:
                continue
            try:
                if text.startswith("/"):
                    self._command(text)
                else:
                    with _ctrl_c() as pressed:
                        self._answer(text, pressed)
            except ForerunError as error:
                _note(f"error: {one_line(str(error))}")

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        rest, talk = rest.strip(), self.conversation
        if name == "/system":
            if rest:
                talk.system = None if rest == "-" else rest
            _note(f"system message: {'none' if talk.system is None else one_line(talk.system)}")
        elif name == "/reset":
            talk.turns.clear()
            _note("the conversation begins anew")
        elif name == "/forget":
            _note("the oldest question is forgotten" if talk.forget_first() else "there is nothing to forget")
        elif name in ("/save", "/load") and not rest:
            _note(f"{name} needs the name of a file")
        elif name == "/save":
            talk.save(Path(rest))
            _note(f"saved to {one_line(rest)}")
        elif name == "/load":
            self.conversation = Conversation.load(Path(rest))
            _note(f"{len(self.conversation.turns) // 2} questions and answers from {one_line(rest)}")
        elif name == "/help":
            _note(HELP)
        else:
            _note(f"there is no {one_line(name)}; /help lists what there is")

    def _answer(self, text: str, pressed: list[int]) -> None:
        """Ask, stream, and remember both; a question that fails is not remembered."""
        asked = {"role": "user", "content": text}
        messages = [*self.conversation.messages(), asked]
        ids = self._tokenizer.encode(self._tokenizer.apply_chat_template(messages), add_special_tokens=False)
        room = self._engine.admission.max_total - len(ids)
        if room < 1:
            raise ForerunError(
                f"the conversation has {len(ids)} tokens with this question and the context {len(ids) + room}: "
                "/forget drops the oldest question, /reset all; --seq-len N may allow more"
            )
        most = min(self._params.max_tokens or LONGEST_ANSWER, room)
        pieces, last = self._stream(ids, replace(self._params, max_tokens=most), pressed)
        if last.error:
            raise ForerunError(last.error)
        self.conversation.say("user", text)
        self.conversation.say("assistant", "".join(pieces))
        if last.finish_reason == FINISH_ABORT:
            _note("[stopped]")
        elif last.finish_reason == FINISH_LENGTH:
            full = "[cut: the context is full; /forget or /reset makes room]"
            _note(full if most == room else f"[cut at {most} tokens: --max-new-tokens N allows longer answers]")

    def _stream(self, ids: list[int], params: SamplingParams, pressed: list[int]) -> tuple[list[str], Delta]:
        """Write the answer while it comes, until it ends or something was ``pressed``; its pieces, and its end."""
        name, pieces, tokens, last = f"turn-{self._turns}", list[str](), 0, Delta("")
        self._turns += 1
        self._engine.add(name, ids, params)
        while self._engine.busy:
            if pressed:
                self._engine.abort(name)
            for delta in self._engine.step():
                tokens += len(delta.token_ids)
                pieces.append(delta.text)
                last = delta
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
        if self._stats and tokens:
            _note(figures(last, len(ids), tokens))
        return pieces, last


def figures(last: Delta, prompt: int, tokens: int) -> str:
    """Speed of one answer, and what of its prompt was there already."""
    times = last.times
    assert times is not None and times.first_token is not None and times.last_token is not None
    wait, decode = times.first_token - times.arrival, times.last_token - times.first_token
    speed = f", {(tokens - 1) / decode:.1f} tokens/s" if tokens > 1 and decode > 0 else ""
    cached = last.num_cached_tokens
    found = f"{cached} of {prompt} prompt tokens from the cache" if cached else f"{prompt} prompt tokens"
    return f"[first token after {wait * 1e3:.0f} ms ({found}), {tokens} tokens{speed}]"


@contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """Ctrl-C is noted in the list, instead of ending a step in its middle."""
    pressed: list[int] = []

    def press(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _lines() -> Iterator[str]:
    """The lines of the user: edited with a history in a terminal, plain ones elsewhere."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        while line := sys.stdin.readline(MOST_CHARS + 1):
            if len(line) > MOST_CHARS:
                raise ForerunError(f"a line of the input has more than {MOST_CHARS} characters")
            yield line
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (input() edits with it)
    _note("Ctrl-C stops an answer, Ctrl-D ends, /help lists commands")
    while True:
        try:
            yield _edited_line()
        except KeyboardInterrupt:
            print()  # the line is given up
        except EOFError:
            print()
            return


def _edited_line() -> str:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input("> ")
    finally:
        signal.signal(signal.SIGINT, before)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
