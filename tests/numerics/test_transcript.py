"""The default model answers as the frozen transcript says, bit by bit, with every instruction set of the machine."""

from __future__ import annotations

import json

import pytest

from forerun import _native
from forerun.compiler.artifact import Artifact
from tests.numerics.transcript import FILE, compile_default, dumps, transcript
from tests.support.default_model import require_default_model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    require_default_model()
    return compile_default(tmp_path_factory.mktemp("transcript"))


@pytest.mark.parametrize("isa", _native.usable_isas())
def test_every_instruction_set_writes_the_frozen_transcript(artifact: Artifact, isa: str) -> None:
    frozen = json.loads(FILE.read_text("utf-8"))
    answers = transcript(artifact, isa)
    for name, answer in answers.items():
        assert answer == frozen[name], f"{name}: the bits have changed; see the frozen transcript in docs/numerics.md"
    assert dumps(answers) == FILE.read_text("utf-8"), "written by tests.numerics.transcript"
