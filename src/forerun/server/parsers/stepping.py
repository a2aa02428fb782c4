"""What parsers of calls share: text that is held back, and one step after another over it."""

from __future__ import annotations

from forerun.server.parsers.json_call import JsonCall
from forerun.server.parsers.parts import Content, Part, held


class Stepping:
    """``_step`` takes one part off ``_text``; False when more of the answer is needed to go on."""

    def __init__(self) -> None:
        self._text = ""  # held back
        self._before = ""  # what goes before a call and is text if it is none
        self._call: JsonCall | None = None
        self._called = False
        self._parts: list[Part] = []

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now."""
        self._text += text
        while self._step():
            pass
        found, self._parts = self._parts, []
        return found

    def end(self) -> list[Part]:
        """What was held back; white space behind calls is nothing."""
        if self._call is not None:
            self._parts += self._call.end()
            if self._call.refused:
                self._text = self._before + self._call.rest
        if self._text.strip() or not self._called:
            self._say(self._text)
        found, self._parts, self._text = self._parts, [], ""
        return found

    def _step(self) -> bool:
        raise NotImplementedError

    def _say(self, text: str) -> None:
        if text:
            self._parts.append(Content(text))

    def _begin_call(self, before: str, text: str) -> bool:
        """A call may begin with ``text``."""
        self._before, self._text, self._call = before, text, JsonCall()
        return True

    def _read_call(self, call: JsonCall) -> bool:
        """Give the call all that there is; True when it has ended, or was none (its text is said then)."""
        text, self._text = self._text, ""
        if not text:
            return False
        self._parts += call.feed(text)
        if call.refused:
            self._say(self._before)
        elif not call.done:
            return False
        self._call, self._text = None, call.rest
        self._called = self._called or call.done
        return True

    def _up_to(self, marker: str) -> str | None:
        """Say what comes before ``marker``, and take the marker off; the white space before it. None: not yet there."""
        before, found, behind = self._text.partition(marker)
        if not found:
            kept = self._text[: len(self._text) - held(self._text, marker)].rstrip()
            self._say(kept)
            self._text = self._text[len(kept) :]
            return None
        said = before.rstrip()
        self._say(said)
        self._text = behind
        return before[len(said) :]
