"""A conversation as data: what was said, and how it lies in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from forerun.errors import ConfigError
from forerun.json_text import JsonReader
from forerun.whole_file import write_whole

_FILE = JsonReader(ConfigError, "/save writes such files")
_TEXT = {"role": str, "content": str}
_ROLES = ("system", "user", "assistant")


@dataclass
class Conversation:
    """``turns`` are messages of user and assistant in turn; ``system`` stands before them, if there is one."""

    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """What the chat template gets."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return before + self.turns

    def say(self, role: str, text: str) -> None:
        """Add a message at the end."""
        self.turns.append({"role": role, "content": text})

    def forget_first(self) -> bool:
        """Drop the oldest question and its answer; False when there is none."""
        if not self.turns:
            return False
        del self.turns[:2]
        return True

    def save(self, path: Path) -> None:
        """Write a JSON file that ``load`` reads, whole or not at all. Raises ConfigError."""
        text = json.dumps({"messages": self.messages()}, ensure_ascii=False, indent=1) + "\n"
        try:
            write_whole(path, text.encode("utf-8", "replace"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
        except ValueError as error:  # a name that no file can have
            raise ConfigError(f"{str(path)!r:.100}: cannot be written ({error})") from None

    @staticmethod
    def load(path: Path) -> Conversation:
        """The conversation in a file of ``save``. Raises ConfigError."""
        messages = _FILE.read_object(path).get("messages")
        if not isinstance(messages, list):
            raise ConfigError(f"{path}: 'messages' must be a list; /save writes such files")
        found = Conversation()
        for place, message in enumerate(messages):
            _FILE.require(message, _TEXT, f"{path}: message {place + 1}")
            found._add(message["role"], message["content"], f"{path}: message {place + 1}")
        if len(found.turns) % 2:
            raise ConfigError(f"{path}: the last question has no answer; take it away")
        return found

    def _add(self, role: str, text: str, where: str) -> None:
        expected = _ROLES[1 + len(self.turns) % 2]
        if role == "system" and self.system is None and not self.turns:
            self.system = text
        elif role == expected:
            self.say(role, text)
        else:
            raise ConfigError(f"{where}: '{role}' stands where '{expected}' belongs")
