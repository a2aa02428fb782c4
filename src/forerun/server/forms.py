"""Forms of answers, compiled beside the event loop: first where it can be ended, then where it is used."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress

from forerun.grammar import GrammarError, Grammars
from forerun.grammar.library import Grammar
from forerun.server.answer_form import AskedForm
from forerun.server.api_error import ApiError
from forerun.server.text import TextWorkers


class Forms:
    """The compiled forms of one server. Use it from one event loop."""

    def __init__(self, grammars: Grammars, text: TextWorkers, rows: int) -> None:
        self._grammars, self._text, self._rows = grammars, text, rows

    def start(self) -> None:
        """Have the vocabulary read now, in a thread; otherwise the first form does it, and holds up others."""
        threading.Thread(target=self._prepare, name="forms", daemon=True).start()

    def _prepare(self) -> None:
        with suppress(GrammarError):  # which every form will say
            self._grammars.prepare()

    async def compiled(self, asked: AskedForm | None) -> Grammar | None:
        """The grammar of what is asked for. Raises ApiError 400 in one line that names the field."""
        if asked is None:
            return None
        try:
            found = self._grammars.known(asked.params)
            if found is not None:
                return found
            await asyncio.gather(self._try(asked), asyncio.to_thread(self._grammars.prepare))
            return await asyncio.to_thread(self._grammars.compile, asked.params)
        except GrammarError as error:
            raise ApiError(400, f"{asked.field}: {error}", param=asked.field, code="invalid_value") from None

    async def _try(self, asked: AskedForm) -> None:
        """Raises GrammarError for what fails, or takes too much, in a process of its own."""
        reason = await self._text.form_refusal(json.loads(asked.params.content), self._rows)
        if reason is not None:
            self._grammars.refuse(asked.params, reason)
            raise GrammarError(reason)
