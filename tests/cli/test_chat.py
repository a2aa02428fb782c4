"""forerun chat: a conversation from a file of lines, in a terminal, and what it remembers."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import sys
from pathlib import Path

import pytest

from forerun.cli.chat_loop import ChatLoop
from forerun.cli.conversation import Conversation
from forerun.cli.main import main
from forerun.engine import SamplingParams
from forerun.engine.engine import Engine
from forerun.errors import ConfigError
from tests.server.harness import PacedExecutor, tiny_tokenizer
from tests.support.artifacts import tiny_artifact
from tests.support.default_model import require_default_model

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def loop(conversation: Conversation | None = None, *, tokens: int = 5, **limits: int) -> ChatLoop:
    tokenizer = tiny_tokenizer()
    engine = Engine(PacedExecutor(**limits), eos_token_ids=tokenizer.eos_token_ids, detokenizer=tokenizer.detokenizer)
    params = SamplingParams(max_tokens=tokens, temperature=0.0)
    return ChatLoop(engine, tokenizer, params, conversation or Conversation())


def talk(chat: ChatLoop, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    chat.run()


def test_turns_are_remembered_and_found_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = loop(Conversation("be brief"))
    talk(chat, monkeypatch, "Hello there, this is a question", "", "And another")
    told = capsys.readouterr()
    assert [turn["role"] for turn in chat.conversation.turns] == ["user", "assistant"] * 2
    assert told.out == "".join(turn["content"] + "\n" for turn in chat.conversation.turns[1::2])
    first, second = (line for line in told.err.splitlines() if line.startswith("[first token"))
    assert "cache" not in first and re.search(r"\(\d+ of \d+ prompt tokens from the cache\), \d+ tokens", second)


def test_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chat, file = loop(), tmp_path / "talk.json"
    talk(chat, monkeypatch, "/system be kind", "hi", "ho", f"/save {file}", "/forget", "/help", "/nothing", "/save")
    assert json.loads(file.read_text())["messages"][0] == {"role": "system", "content": "be kind"}
    assert len(chat.conversation.turns) == 2 and chat.conversation.turns[0]["content"] == "ho"
    told = capsys.readouterr().err
    assert "there is no /nothing" in told and "/reset" in told and "/save needs the name" in told
    talk(chat, monkeypatch, "/reset", "/forget", f"/load {file}", "/system -")
    assert "nothing to forget" in capsys.readouterr().err
    assert len(chat.conversation.turns) == 4 and chat.conversation.system is None
    assert Conversation.load(file).messages() == json.loads(file.read_text())["messages"]


def test_what_cannot_be_saved_is_one_line_and_keeps_the_old_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chat, file = loop(), tmp_path / "talk.json"
    talk(
        chat,
        monkeypatch,
        f"/save {file}",
        "hi",
        f"/save {file}/x",
        "/save /dev/full",
        "/save a\0b",
        f"/save {tmp_path}",
    )
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(told) == 4 and all("cannot be written" in line for line in told), told
    assert json.loads(file.read_text()) == {"messages": []} and len(chat.conversation.turns) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]


def test_a_full_context_is_one_line_and_the_session_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = loop(max_model_len=128)
    talk(chat, monkeypatch, "short", "x" * 200, "/reset", "again")
    told = capsys.readouterr().err
    assert told.count("error: ") == 1 and "/forget drops" in told and "the context 128" in told
    assert [turn["content"] for turn in chat.conversation.turns[::2]] == ["again"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({}, "must be a list"),
        ({"messages": [{"role": "user"}]}, "'content' is missing"),
        ({"messages": TURNS[1:]}, "'assistant' stands where 'user' belongs"),
        ({"messages": TURNS[:1]}, "has no answer"),
        ({"messages": [*TURNS, {"role": "system", "content": "x"}]}, "'system' stands where"),
    ],
)
def test_files_that_are_no_conversation(content: object, why: str, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=why):
        Conversation.load(file)


def test_through_the_front_door(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    artifact = str(tiny_artifact(tmp_path, seq_len=128, pa_num_blocks=16).path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    assert main(["chat", artifact, "--threads", "1", "--max-new-tokens", "4"]) == 0
    assert "4 tokens" in capsys.readouterr().err
    assert main(["chat", artifact, "--load", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


class Terminal:
    """A process in a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._pid, self._end = pty.fork()
        if self._pid == 0:
            os.execv(command[0], command)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def until(self, pattern: str, again: str = "") -> str:
        """Read until ``pattern`` comes; what came up to there is taken away and returned. ``again`` is typed whenever
        nothing comes for a while: a Ctrl-C just before Python's readline begins to wait counts at the next key."""
        while not (found := re.search(pattern, self.seen)):
            if again and not select.select([self._end], [], [], 3)[0]:
                self.type(again)
                continue
            self.seen += os.read(self._end, 4096).decode(errors="replace")
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def ended(self) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        os.close(self._end)
        return status


def test_in_a_terminal_with_the_default_model() -> None:
    require_default_model()
    terminal = Terminal(sys.executable, "-m", "forerun.cli.main", "chat", "default", "--max-new-tokens", "2000")
    terminal.until("> ")
    terminal.type("Write a very long story about the sea, with many chapters.\n")
    terminal.until("(?i)sea.*\n.*[a-z]{3} ")
    terminal.type("\x03")
    terminal.until(r"\[stopped\]")
    terminal.until("> ")
    terminal.type("What is the capital of France? One word.\n")
    assert re.search(r"\d+ of \d+ prompt tokens from the cache", terminal.until(r"tokens/s\]|tokens\]"))
    terminal.until("> ")
    terminal.type("half a line")
    terminal.until("half a line")
    terminal.type("\x03")
    terminal.until("> ", again="\x03")
    terminal.type("\x04")
    assert terminal.ended() == 0
