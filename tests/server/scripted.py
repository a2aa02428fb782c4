"""Servers whose model says what a test wants it to say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from forerun.checkpoint import Tokenizer
from forerun.config import NeuronConfig
from forerun.runtime.step import StepInput, StepOutput
from forerun.server.server_settings import ServerSettings
from tests.server.harness import VOCAB, PacedExecutor, Running, running
from tests.support.tiny_checkpoints import write_tokenizer

END = 2


class Says(PacedExecutor):
    """Answers with ``texts``, one request after another, then with the oracle's tokens."""

    def __init__(self, tokenizer: Tokenizer, **limits: int) -> None:
        super().__init__(**{"num_blocks": 1024, "max_model_len": 16384, **limits})
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def step(self, batch: StepInput) -> StepOutput:
        for row in batch.positions[batch.sample_rows]:
            if int(row) + 1 not in self.script and self.texts:
                ids = [*self._tokenizer.encode(self.texts.pop(0), False), END]
                self.script = {int(row) + 1 + place: token for place, token in enumerate(ids)}
        output = super().step(batch)
        if any(int(row) + 1 == max(self.script, default=0) for row in batch.positions[batch.sample_rows]):
            self.script = {}
        return output


def tokenizer_with(template: str | None) -> Tokenizer:
    """The tiny tokenizer with another chat template."""
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), VOCAB)
        if template is not None:
            (Path(folder) / "chat_template.jinja").write_text(template)
        return Tokenizer.from_folder(folder)


@contextmanager
def saying(*texts: str, template: str | None = None, **settings: Any) -> Iterator[tuple[Running, Says]]:
    """A server whose next answers are ``texts``."""
    tokenizer = tokenizer_with(template)
    executor = Says(tokenizer)
    executor.texts = list(texts)
    served = replace(ServerSettings(served_names=("tiny",)), **settings)
    with running(executor, served, config=NeuronConfig(seq_len=16384), tokenizer=tokenizer) as server:
        yield server, executor
