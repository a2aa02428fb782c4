"""The tokenizer of a checkpoint or artifact: text <-> ids, chat templates, generation defaults."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

from forerun.checkpoint.chat_template import ChatTemplateError, check_template, render_chat
from forerun.checkpoint.decoder import read_decoder
from forerun.checkpoint.detokenizer import IncrementalDetokenizer, TokenPieces
from forerun.checkpoint.special_tokens import add_special_tokens, role_texts, with_special_map
from forerun.checkpoint.tokenizer_parts import check_parts
from forerun.errors import CheckpointError
from forerun.json_text import CHECKPOINT_JSON


class Tokenizer:
    """Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.* and
    generation_config.json.

    Attributes: vocab_size (highest id + 1), bos_token_id, eos_token_id, pad_token_id (int or None), eos_token_ids (all
    ids that end a generation), special_tokens ("bos_token" -> text ...), special_token_ids (which are no text),
    generation_config (dict), files and rows (what it was built from).
    """

    def __init__(self, files: Mapping[str, bytes], rows: int | None = None) -> None:
        """Build from file contents by name. Raises CheckpointError when tokenizer.json is missing or damaged.

        rows: how many tokens the model knows; tokens beyond them that only other files name are not taken up.
        """
        from tokenizers import Tokenizer as Backend

        if "tokenizer.json" not in files:
            raise CheckpointError("tokenizer.json is missing; the checkpoint has no tokenizer that can be read")
        self.files, self.rows = files, rows
        check_parts(CHECKPOINT_JSON.parse_object(files["tokenizer.json"], "tokenizer.json"))
        with _one_line_for_panics(), _silent_library():
            self._backend = Backend.from_str(files["tokenizer.json"].decode("utf-8"))
        self._backend.no_truncation()
        self._backend.no_padding()
        config = _optional_json(files, "tokenizer_config.json")
        config = with_special_map(config, _optional_json(files, "special_tokens_map.json"))
        add_special_tokens(self._backend, config, _optional_json(files, "added_tokens.json"), rows)
        self._config = config
        self.generation_config = _optional_json(files, "generation_config.json")
        self.special_tokens = role_texts(config)
        self._templates = _templates(files, config)
        decoder = self._backend.decoder
        state = {} if decoder is None else json.loads(decoder.__getstate__())
        self._pieces = TokenPieces(read_decoder(state), self._backend.id_to_token)
        added = self._backend.get_added_tokens_decoder()
        self.special_token_ids = frozenset(number for number, token in added.items() if token.special)
        self.vocab_size = self._count(max(added, default=-1))
        self.bos_token_id = self._id_of("bos_token")
        self.eos_token_id = self._id_of("eos_token")
        self.pad_token_id = self._id_of("pad_token")
        self.eos_token_ids = self._end_ids()

    @staticmethod
    def from_folder(folder: str | Path) -> Tokenizer:
        """Build from the tokenizer files in a folder (a checkpoint or an artifact)."""
        from forerun.checkpoint.hf import read_tokenizer_files

        return Tokenizer(read_tokenizer_files(Path(folder)))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of ``text``, with the model's own first and last tokens when asked for.

        Unpaired surrogates, which are no text, count as U+FFFD. Other threads go on running meanwhile.
        """
        with _one_line_for_panics():
            # Of the backend's ways to encode only those for batches let go of the GIL; this one skips the offsets too.
            ids: list[int] = self._backend.encode_batch_fast([_clean(text)], add_special_tokens=add_special_tokens)[
                0
            ].ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids``; ids outside the vocabulary give nothing."""
        stream = self.detokenizer(skip_special_tokens)
        return "".join([*(stream.push(int(token)) for token in ids), stream.flush()])

    def detokenizer(self, skip_special_tokens: bool = True, context: Sequence[int] = ()) -> IncrementalDetokenizer:
        """Return a fresh detokenizer for one stream of tokens, which goes on where ``context`` (a prompt) ends."""
        skipped = self.special_token_ids if skip_special_tokens else frozenset()
        return IncrementalDetokenizer(self._pieces, skipped, context)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that one token stands for (they need not be whole characters)."""
        return self._pieces.bytes_of(token)

    def id_to_token(self, token: int) -> str | None:
        """Return the vocabulary's spelling of a token, or None for an id outside of it."""
        text: str | None = self._backend.id_to_token(token)
        return text

    def token_to_id(self, text: str) -> int | None:
        """Return the id of a vocabulary entry or special token spelled ``text``, or None."""
        number: int | None = self._backend.token_to_id(text)
        return number

    @property
    def has_chat_template(self) -> bool:
        """Whether the model came with a chat template."""
        return bool(self._templates)

    def chat_template(self, tools: bool = False) -> str | None:
        """The text of the chat template, or of the one for chats with tools."""
        return (self._templates.get("tool_use") if tools else None) or self._templates.get("default")

    def check_chat_templates(self) -> None:
        """Compile the model's chat templates. Raises ChatTemplateError for one that is not valid."""
        for name, template in self._templates.items():
            check_template(template, name)

    def description(self) -> dict[str, Any]:
        """Return tokenizer_config.json with special tokens as texts, the class's name and the default chat template."""
        template = {"chat_template": self._templates["default"]} if "default" in self._templates else {}
        return {"tokenizer_class": "PreTrainedTokenizerFast", **self._config, **self.special_tokens, **template}

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """Return the prompt text for ``messages`` (dicts with role and content); encode it without special tokens.

        chat_template replaces the model's own; continue_final_message leaves the last message open. variables reach
        the template by name (tools, documents, enable_thinking ...). Raises ChatTemplateError when there is no template
        or it refuses the messages.
        """
        template = chat_template
        if template is None:
            wanted = "tool_use" if variables.get("tools") and "tool_use" in self._templates else "default"
            template = self._templates.get(wanted)
        if template is None:
            raise ChatTemplateError("the model has no chat template; give one, or prompt it with plain text")
        return render_chat(
            template,
            messages,
            add_generation_prompt=add_generation_prompt,
            special_tokens=self.special_tokens,
            variables=variables,
            continue_final_message=continue_final_message,
        )

    def _count(self, highest_added: int) -> int:
        """Highest id + 1; vocabularies with holes have fewer entries than that."""
        size: int = max(self._backend.get_vocab_size(with_added_tokens=True), highest_added + 1)
        whole = size == self._backend.get_vocab_size(with_added_tokens=True)
        if whole and size and self.id_to_token(size - 1) is not None and self.id_to_token(size) is None:
            return size
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def _id_of(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        number = None if text is None else self.token_to_id(text)
        if number is None:
            value = self.generation_config.get(f"{name}_id")
            value = value[0] if isinstance(value, list) and value else value
            number = value if self._is_id(value) else None
        return number

    def _end_ids(self) -> tuple[int, ...]:
        value = self.generation_config.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        ids = [*ids, self.eos_token_id]
        return tuple(dict.fromkeys(i for i in ids if self._is_id(i)))

    def _is_id(self, value: Any) -> TypeGuard[int]:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < self.vocab_size


@contextmanager
def _one_line_for_panics() -> Iterator[None]:
    """Turn whatever the tokenizer library raises into a CheckpointError. Its panics are not even Exceptions, and what
    they say is about the library."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"tokenizer.json: it cannot be used ({reason}); fetch it again") from None
    except BaseException:
        raise CheckpointError("tokenizer.json: the tokenizer library fails on it; fetch it again") from None


@contextmanager
def _silent_library() -> Iterator[None]:
    """Keep what the library writes about its own panics from the terminal, unless other threads may write there too."""
    with ExitStack() as restored:
        with suppress(OSError):  # no such stream, or no more of them
            if threading.active_count() == 1:
                kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
                restored.callback(os.close, kept)
                restored.callback(os.dup2, kept, 2)
                os.dup2(nowhere, 2)
                os.close(nowhere)
        yield


def _clean(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _optional_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    return CHECKPOINT_JSON.parse_object(files[name], name) if name in files else {}


def _templates(files: Mapping[str, bytes], config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; a separate file goes before the one in tokenizer_config.json."""
    value: Any = config.get("chat_template")
    if "chat_template.jinja" in files:
        value = files["chat_template.jinja"].decode("utf-8", "replace")
    elif "chat_template.json" in files:
        value = CHECKPOINT_JSON.parse_object(files["chat_template.json"], "chat_template.json").get(
            "chat_template", value
        )
    if isinstance(value, str):
        return {"default": value}
    if not isinstance(value, list):
        return {}
    pairs = [(entry.get("name"), entry.get("template")) for entry in value if isinstance(entry, dict)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
