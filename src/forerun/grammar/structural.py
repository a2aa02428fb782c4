"""Structural tags: free text, and parts of it that are held to a form once they have begun."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from forerun.grammar.params import GrammarError

Json = Callable[[Mapping[str, Any] | bool], str]
Regex = Callable[[str], str]
Special = Mapping[str, int]
_TEXT = r"/(.|\n)*/"


def tag_rules(asked: Mapping[str, Any], json_rule: Json, regex_rule: Regex, special: Special) -> str:
    """Rules for what ``asked`` describes, either as ``format`` or as ``structures`` and ``triggers``. ``special``: the
    ids of tokens that are no text, by their spelling. Raises GrammarError."""
    writer = _Writer(json_rule, regex_rule, special)
    wanted = _from_structures(asked) if "structures" in asked else asked.get("format")
    return writer.rules(_object(wanted, "format"))


def tagged_schemas(asked: Any, tag: str = "") -> Iterator[tuple[str, Any]]:
    """The JSON schemas in what ``tag_rules`` takes, each with the beginning of the tag around it."""
    if isinstance(asked, Mapping):
        begin = asked.get("begin")
        tag = f"the tag {begin!r:.100}" if isinstance(begin, str) and begin else tag
        for name, value in asked.items():
            if name in ("json_schema", "schema"):
                yield tag, value
            else:
                yield from tagged_schemas(value, tag)
    elif isinstance(asked, list | tuple):
        for one in asked:
            yield from tagged_schemas(one, tag)


def _from_structures(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """The older way to say it."""
    tags = []
    for structure in _list(asked, "structures"):
        schema = structure.get("schema")
        content = {"type": "json_schema", "json_schema": {} if schema is None else schema}
        tags.append({"begin": structure.get("begin"), "content": content, "end": structure.get("end")})
    return {"type": "triggered_tags", "triggers": asked.get("triggers"), "tags": tags}


class _Writer:
    """Writes the rules of one format, part by part; every part is a symbol, or several in a row."""

    def __init__(self, json_rule: Json, regex_rule: Regex, special: Special) -> None:
        self._json, self._regex, self._special = json_rule, regex_rule, special
        self._lines: list[str] = []
        self._split = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True)))) if special else None

    def rules(self, wanted: Mapping[str, Any]) -> str:
        """All of them."""
        start = self._part(wanted, last=True)
        return "\n".join([f"start: {start}", f"TEXT: {_TEXT}", *self._lines])

    def _part(self, wanted: Mapping[str, Any], last: bool = False) -> str:
        """``last``: nothing comes behind it."""
        kind = wanted.get("type")
        if kind == "const_string":
            return self._text(_string(wanted, "value"))
        if kind == "json_schema":
            if wanted.get("style", "json") != "json":
                raise GrammarError(f"structural_tag: a json_schema of style {wanted['style']!r:.40} is not supported")
            return self._named(self._json(_schema(wanted)))
        if kind == "regex":
            return self._named(self._regex(_string(wanted, "pattern")))
        if kind == "any_text" and last:
            return "TEXT"
        if kind == "sequence":
            return self._sequence(_list(wanted, "elements"), last)
        if kind == "or":
            return self._either([self._part(one, last) for one in _list(wanted, "elements")])
        if kind == "tag":
            return self._tag(wanted)
        if kind == "tags_with_separator":
            return self._separated(wanted)
        if kind == "triggered_tags" and last:
            return self._triggered(wanted)
        if kind in ("any_text", "triggered_tags"):
            raise GrammarError(f"structural_tag: {kind} can only come at the end, or before a fixed text")
        raise GrammarError(f"structural_tag: a format of type {kind!r:.40} is not supported")

    def _sequence(self, elements: Sequence[Mapping[str, Any]], last: bool) -> str:
        parts: list[str] = []
        place = 0
        while place < len(elements):
            one, final = elements[place], place + 1 == len(elements)
            if one.get("type") == "any_text" and not final:
                following, place = elements[place + 1], place + 1
                if following.get("type") == "const_string":
                    parts.append(self._up_to([_string(following, "value")]))
                elif following.get("type") == "tag":
                    parts += [self._up_to([_string(following, "begin")]), self._inside(following)]
                else:
                    raise GrammarError("structural_tag: any_text can only come at the end, or before a fixed text")
            else:
                parts.append(self._part(one, last and final))
            place += 1
        return " ".join(parts)

    def _tag(self, tag: Mapping[str, Any]) -> str:
        begin = _string(tag, "begin", empty=True)
        return f"{self._text(begin) if begin else ''} {self._inside(tag)}".strip()

    def _inside(self, tag: Mapping[str, Any]) -> str:
        """What comes behind the beginning of a tag."""
        content, end = _object(tag.get("content"), "content"), tag.get("end")
        ends = [end] if isinstance(end, str) else list(end) if isinstance(end, Sequence) else []
        if not ends or any(not isinstance(one, str) for one in ends):
            raise GrammarError("structural_tag: the end of a tag must be a text, or a list of them")
        if content.get("type") == "any_text" and all(ends):
            return self._up_to(ends)
        closed = self._either([self._text(one) for one in ends if one] + ([""] if "" in ends else []))
        return f"{self._part(content, last=ends == [''])} {closed}".strip()

    def _separated(self, wanted: Mapping[str, Any]) -> str:
        tag = self._either([self._tag(one) for one in _list(wanted, "tags")])
        separator = _string(wanted, "separator", empty=True)
        more = "" if wanted.get("stop_after_first") else f"({self._text(separator) if separator else ''} {tag})*"
        whole = self._named(f"{tag} {more}".strip())
        return whole if wanted.get("at_least_one") else f"{whole}?"

    def _triggered(self, wanted: Mapping[str, Any]) -> str:
        tags, triggers = _list(wanted, "tags"), wanted.get("triggers")
        if not isinstance(triggers, Sequence) or isinstance(triggers, str) or not triggers:
            raise GrammarError("structural_tag: triggers must be a non-empty list of texts")
        begun: dict[str, list[str]] = {}
        for tag in tags:
            begin = _string(tag, "begin")
            trigger = next((one for one in triggers if isinstance(one, str) and one and begin.startswith(one)), None)
            if trigger is None:
                raise GrammarError(f"structural_tag: no trigger begins {begin!r:.60}")
            rest = begin[len(trigger) :]
            begun.setdefault(trigger, []).append(f"{self._text(rest) if rest else ''} {self._inside(tag)}".strip())
        later = self._either([f"{self._up_to([trigger])} {self._either(ways)}" for trigger, ways in begun.items()])
        once = bool(wanted.get("stop_after_first"))
        if not wanted.get("at_least_one"):
            return f"({later} | TEXT)" if once else f"({later})* TEXT"
        first = self._either([self._tag(tag) for tag in tags])
        return first if once else f"{first} ({later})* TEXT"

    def _up_to(self, ends: Sequence[str]) -> str:
        """Any text up to the first of ``ends``, and that."""
        ways = []
        for end in ends:
            if end in self._special:
                ways.append(f"TEXT <[{self._special[end]}]>")
            else:
                name = self._name()
                self._lines.append(f"{name}[lazy]: TEXT {json.dumps(end, ensure_ascii=False)}")
                ways.append(name)
        return self._either(ways)

    def _text(self, text: str) -> str:
        """Exactly this text, special tokens as such."""
        plain = self._split.split(text) if self._split else [text]
        between = [f"<[{self._special[found]}]>" for found in self._split.findall(text)] if self._split else []
        parts = [json.dumps(plain[0], ensure_ascii=False) if plain[0] else ""]
        for token, following in zip(between, plain[1:], strict=True):
            parts += [token, json.dumps(following, ensure_ascii=False) if following else ""]
        return " ".join(part for part in parts if part)

    def _either(self, ways: Sequence[str]) -> str:
        return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})"

    def _named(self, body: str) -> str:
        name = self._name()
        self._lines.append(f"{name}: {body}")
        return name

    def _name(self) -> str:
        return f"part_{len(self._lines)}"


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise GrammarError(f"structural_tag: {name} must be an object")
    return value


def _list(value: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    found = value.get(name)
    if not isinstance(found, list | tuple) or not found or any(not isinstance(one, Mapping) for one in found):
        raise GrammarError(f"structural_tag: {name} must be a non-empty list of objects")
    return found


def _string(value: Mapping[str, Any], name: str, empty: bool = False) -> str:
    found = value.get(name, "" if empty else None)
    if not isinstance(found, str) or not (found or empty):
        raise GrammarError(f"structural_tag: {name} must be a text")
    return found


def _schema(wanted: Mapping[str, Any]) -> Mapping[str, Any] | bool:
    found = wanted.get("json_schema")
    if not isinstance(found, Mapping | bool):
        raise GrammarError("structural_tag: json_schema must be an object")
    return found
