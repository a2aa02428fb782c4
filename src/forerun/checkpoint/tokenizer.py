"""The tokenizer of a checkpoint or artifact: text <-> ids, chat templates, generation defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forerun.checkpoint.chat_template import ChatTemplateError, render_chat
from forerun.checkpoint.detokenizer import IncrementalDetokenizer, TokenBytes
from forerun.checkpoint.hf import read_tokenizer_files
from forerun.checkpoint.json_file import parse_json_object
from forerun.errors import CheckpointError

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class Tokenizer:
    """Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.* and generation_config.json.

    Attributes: vocab_size (highest id + 1), bos_token_id, eos_token_id, pad_token_id (int or None), eos_token_ids (all
    ids that end a generation), special_tokens ("bos_token" -> text ...), generation_config (dict).
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Build from file contents by name. Raises CheckpointError when tokenizer.json is missing or damaged."""
        from tokenizers import Tokenizer as Backend

        if "tokenizer.json" not in files:
            raise CheckpointError("tokenizer.json is missing; the checkpoint has no tokenizer that can be read")
        try:
            self._backend = Backend.from_str(files["tokenizer.json"].decode("utf-8"))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"tokenizer.json: it cannot be used ({reason}); fetch it again") from None
        self._backend.no_truncation()
        self._backend.no_padding()
        self._config = _optional_json(files, "tokenizer_config.json")
        self.generation_config = _optional_json(files, "generation_config.json")
        self.special_tokens = _special_tokens(self._config, _optional_json(files, "special_tokens_map.json"))
        self._templates = _templates(files, self._config)
        decoder = self._backend.decoder
        state = {} if decoder is None else json.loads(decoder.__getstate__())
        self._token_bytes = TokenBytes(state, self._backend.id_to_token)
        added = self._backend.get_added_tokens_decoder()
        self._special_ids = frozenset(number for number, token in added.items() if token.special)
        self.vocab_size = self._count(max(added, default=-1))
        self.bos_token_id = self._id_of("bos_token")
        self.eos_token_id = self._id_of("eos_token")
        self.pad_token_id = self._id_of("pad_token")
        self.eos_token_ids = self._end_ids()

    @staticmethod
    def from_folder(folder: str | Path) -> Tokenizer:
        """Build from the tokenizer files in a folder (a checkpoint or an artifact)."""
        return Tokenizer(read_tokenizer_files(Path(folder)))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of ``text``, with the model's own first and last tokens when asked for.

        Unpaired surrogates, which are no text, count as U+FFFD. Other threads go on running meanwhile.
        """
        # Of the backend's ways to encode only those for batches let go of the GIL; this one also skips the offsets.
        ids: list[int] = self._backend.encode_batch_fast([_clean(text)], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids``; ids outside the vocabulary give nothing."""
        text: str = self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)
        return text

    def detokenizer(self, skip_special_tokens: bool = True) -> IncrementalDetokenizer:
        """Return a fresh detokenizer for one stream of tokens."""
        return IncrementalDetokenizer(self._token_bytes, self._special_ids if skip_special_tokens else frozenset())

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that one token stands for (they need not be whole characters)."""
        return self._token_bytes(token)

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
            number = value if isinstance(value, int) and not isinstance(value, bool) else None
        return number

    def _end_ids(self) -> tuple[int, ...]:
        value = self.generation_config.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        ids = [*ids, self.eos_token_id]
        return tuple(dict.fromkeys(i for i in ids if isinstance(i, int) and not isinstance(i, bool)))


def _clean(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _optional_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    return parse_json_object(files[name], name) if name in files else {}


def _special_tokens(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the special tokens; an entry is a string or an object with "content"."""
    found = {}
    for name in _SPECIAL_NAMES:
        value = config.get(name, special_map.get(name))
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            found[name] = value
    return found


def _templates(files: Mapping[str, bytes], config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; a separate file goes before the one in tokenizer_config.json."""
    value: Any = config.get("chat_template")
    if "chat_template.jinja" in files:
        value = files["chat_template.jinja"].decode("utf-8", "replace")
    elif "chat_template.json" in files:
        value = parse_json_object(files["chat_template.json"], "chat_template.json").get("chat_template", value)
    if isinstance(value, str):
        return {"default": value}
    if not isinstance(value, list):
        return {}
    pairs = [(entry.get("name"), entry.get("template")) for entry in value if isinstance(entry, dict)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
