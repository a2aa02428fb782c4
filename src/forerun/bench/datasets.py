"""The prompts of a load, by name. Everything is generated from a seed or read from a file; nothing is fetched.

A set with a shared part states exactly how many of its tokens are shared (``Session.shared_tokens``): what a prefix
cache can find at best, before it rounds down to whole blocks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from forerun.bench.files import human_eval, json_lines, share_gpt
from forerun.bench.records import Session, Turn
from forerun.bench.sonnets import Lengths, read_lines, sonnet_sessions
from forerun.bench.texts import fit, words
from forerun.bench.tokens import Count
from forerun.errors import ForerunError, did_you_mean


@dataclass(frozen=True)
class Request:
    """What is wanted of a dataset.

    number: sessions; path: of the file that a dataset reads; turns: of each session, where the dataset has several;
    prefixes, prefix_tokens, suffix_tokens: of ``prefix-repetition``; output: tokens of an answer where the set does
    not say itself (None: the set's default); say: is told what a file has that cannot be used.
    """

    number: int
    lengths: Lengths
    count: Count
    seed: int
    path: str | None = None
    lines: str | None = None
    output: int | None = None
    turns: int = 4
    think_seconds: float = 0.0
    prefixes: int = 10
    prefix_tokens: int = 256
    suffix_tokens: int = 256
    say: Callable[[str], None] = lambda text: None


def _sonnet(request: Request) -> list[Session]:
    lines = read_lines(request.lines)
    return sonnet_sessions(request.number, request.lengths, lines, request.count, request.seed)


def _math(request: Request) -> list[Session]:
    """Questions behind one long preface of worked examples: about 1,700 tokens, more than 90 % of them shared."""
    draw = random.Random(request.seed)
    preface = fit(_examples(draw), 1_700, request.count, "\n\n".join)
    return [_behind(preface, "\n\n" + _question(draw)[0], request, 128) for _ in range(request.number)]


def _examples(draw: random.Random) -> Iterator[str]:
    while True:
        question, answer = _question(draw)
        yield f"{question}\n{answer}"


def _question(draw: random.Random) -> tuple[str, str]:
    """A question and its worked answer."""
    boxes, each, sold = draw.randrange(3, 40), draw.randrange(6, 90), draw.randrange(2, 60)
    goods = draw.choice(("pears", "candles", "notebooks", "tiles", "letters", "lamps", "bolts", "maps"))
    text = (
        f"Question: A store holds {boxes} boxes of {each} {goods} and sells {sold} of the {goods}. How many are left?"
    )
    steps = f"{boxes} times {each} is {boxes * each}; {boxes * each} minus {sold} is {boxes * each - sold}."
    return text, f"Answer: {steps} So {boxes * each - sold} {goods} are left."


def _quarter(total: int) -> Callable[[Request], list[Session]]:
    """Verse of ``total`` tokens whose first quarter is the same in all prompts."""

    def make(request: Request) -> list[Session]:
        draw = random.Random(request.seed)
        lines = read_lines(request.lines)
        preface = fit(_shuffled(draw, lines), total // 4, request.count, "".join)
        sessions = []
        for number in range(request.number):
            own = f"Part {number + 1}, {draw.randrange(1 << 30)}:\n"
            rest = total - request.count(preface) - request.count(own)
            sessions.append(
                _behind(preface, own + fit(_shuffled(draw, lines), rest, request.count, "".join), request, 128)
            )
        return sessions

    return make


def _shuffled(draw: random.Random, lines: list[str]) -> Iterator[str]:
    while True:
        own = list(lines)
        draw.shuffle(own)
        yield from own


def _table(request: Request) -> list[Session]:
    """Questions about one table of 30 rows, as in the second tutorial: all but the question is shared."""
    draw = random.Random(request.seed)
    places = [f"{name} {kind}" for name in _NAMES for kind in ("mill", "quay", "works")]
    rows = [
        f"| {number} | {place} | {draw.randrange(1850, 2020)} | {draw.randrange(12, 900)} | "
        f"{draw.choice(_NAMES)} | {draw.randrange(100_000, 999_999)} |"
        for number, place in enumerate(draw.sample(places, 30), 1)
    ]
    head = "| number | place | founded | people | owner | telephone |\n|---|---|---|---|---|---|\n"
    preface = "Answer from this table, in one short sentence.\n\n" + head + "\n".join(rows)
    asked = ("When was {} founded?", "How many people work at {}?", "Who owns {}?", "What is the telephone of {}?")
    chosen = [draw.choice(rows).split(" | ")[1] for _ in range(request.number)]
    return [_behind(preface, "\n\n" + draw.choice(asked).format(place), request, 48) for place in chosen]


_NAMES = ("Alder", "Birch", "Cedar", "Dover", "Elm", "Ford", "Gale", "Holt", "Ives", "Juniper", "Kestrel", "Larch")


def _human_eval(request: Request) -> list[Session]:
    """The programming problems of the package human-eval; nothing is shared."""
    return _single(human_eval(request.path), request, 256)


def _custom(request: Request) -> list[Session]:
    return _single(json_lines(request.path), request, 256)


def _share_gpt(request: Request) -> list[Session]:
    """The people's turns of recorded chats; with ``turns`` 1 only the first, as vLLM's benchmark does."""
    return [
        Session(
            tuple(Turn(text, request.output or answer) for text, answer in _measured(chat[: request.turns], request)),
            think_seconds=request.think_seconds,
        )
        for chat in _take(share_gpt(request.path, request.say), request.number, "chats")
    ]


def _measured(chat: list[tuple[str, str]], request: Request) -> Iterator[tuple[str, int]]:
    for asked, answered in chat:
        yield asked, max(1, request.count(answered))


def _chats(request: Request) -> list[Session]:
    """Generated chats of several turns behind one system prompt; every turn's prompt holds all before it."""
    draw = random.Random(request.seed)
    system = "You answer in one or two sentences. " + fit(words(draw), 200, request.count)
    return [
        Session(
            tuple(Turn(f"{_opening(draw)} {fit(words(draw), 60, request.count)}", request.output or 64)
                  for _ in range(request.turns)),
            system=system, think_seconds=request.think_seconds, shared_tokens=request.count(system),
        )
        for _ in range(request.number)
    ]  # fmt: skip


def _opening(draw: random.Random) -> str:
    return draw.choice(("Tell me what this is about:", "Continue:", "What happened next?", "Put this in other words:"))


def _prefix_repetition(request: Request) -> list[Session]:
    """vLLM's: ``prefixes`` prefixes, each in front of as many suffixes. The first of each shares nothing."""
    draw = random.Random(request.seed)
    fronts = [fit(words(draw), request.prefix_tokens, request.count) for _ in range(request.prefixes)]
    pairs = [
        (place % len(fronts), " " + fit(words(draw), request.suffix_tokens, request.count))
        for place in range(request.number)
    ]
    draw.shuffle(pairs)
    seen: set[int] = set()
    sessions = []
    for front, own in pairs:
        session = _behind(fronts[front], own, request, 128)
        sessions.append(session if front in seen else replace(session, shared_tokens=0))
        seen.add(front)
    return sessions


def _random(request: Request) -> list[Session]:
    """Sentences of random words with normally distributed lengths; nothing is shared."""
    draw, lengths = random.Random(request.seed), request.lengths
    sessions = []
    for _ in range(request.number):
        size = max(1, int(draw.gauss(lengths.mean_input, lengths.stddev_input)))
        answer = max(1, int(draw.gauss(lengths.mean_output, lengths.stddev_output)))
        sessions.append(Session((Turn(fit(words(draw), size, request.count), request.output or answer, size),)))
    return sessions


def _behind(preface: str, own: str, request: Request, output: int) -> Session:
    """A prompt whose beginning is shared; the nominal input is what the text alone has."""
    text = preface + own
    turn = Turn(text, request.output or output, request.count(text))
    return Session((turn,), shared_tokens=request.count(preface))


def _single(prompts: list[str], request: Request, output: int) -> list[Session]:
    chosen = _take(prompts, request.number, "prompts")
    return [Session((Turn(text, request.output or output, request.count(text)),)) for text in chosen]


def _take(found: list, number: int, what: str) -> list:  # type: ignore[type-arg]
    if number > len(found):
        raise ForerunError(f"the dataset has {len(found)} {what}, not {number}: lower --max-num-completed-requests")
    return found[:number]


FROM_FILES = ("humaneval", "sharegpt", "custom")
"""Sets of prompts that somebody else wrote: as many as there are, and the same for every seed."""
DATASETS: Mapping[str, Callable[[Request], list[Session]]] = {
    "sonnet": _sonnet,
    "math": _math,
    **{f"dynamic-sonnet-{size}k": _quarter(1024 * size) for size in (1, 2, 4, 8)},
    "humaneval": _human_eval,
    "table": _table,
    "chats": _chats,
    "prefix-repetition": _prefix_repetition,
    "random": _random,
    "sharegpt": _share_gpt,
    "custom": _custom,
}


def make_sessions(name: str, request: Request) -> list[Session]:
    """The sessions of the dataset ``name``. Raises ForerunError."""
    name = name.replace("_", "-")
    if name not in DATASETS:
        raise ForerunError(f"--dataset-name {name}: there is {', '.join(DATASETS)}{did_you_mean(name, DATASETS)}")
    return DATASETS[name](request)


def shared_share(sessions: list[Session]) -> float | None:
    """The part of all prompt tokens that a cache can find, the first request of the run aside; None if unknown.

    Exact for sets with one shared beginning and one turn; others tell by the server's count only.
    """
    sizes = [session.turns[0].nominal_input_tokens for session in sessions if len(session.turns) == 1]
    known = [size for size in sizes if size]
    if len(known) != len(sessions) or not known:
        return None
    return sum(session.shared_tokens for session in sessions) / sum(known)
