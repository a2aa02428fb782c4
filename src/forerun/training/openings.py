"""How the documents begin that the target writes: of a question at most its first words, the rest is the target's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forerun.checkpoint.chat_template import ChatTemplateError
from forerun.checkpoint.tokenizer import Tokenizer

TALK = (
    "", "", "", "", "What", "How", "How do I", "Why", "Write", "Write a short", "Explain", "Can you", "Could you",
    "Give me", "Describe", "Summarize", "Tell me about", "Compare", "Plan", "Suggest", "List", "Who", "When", "Where",
    "Rewrite", "Is it", "Create", "Help me", "I", "I am", "I want to", "My", "The", "If", "In", "A", "Imagine",
    "What is the difference between", "What are some", "Please", "Write a story about", "Write a letter", "Hello",
    "Read the following text and answer the question.\n\n", "Extract", "Translate", "Let's",
)  # fmt: skip
CODE = (
    "Write a Python function", "Write a function that", "Write a program", "Complete the following function.\n\n",
    "def", "from typing import", "import", "class", "```python\n", "Fix the bug in this code:\n\n```python\n",
    "Explain what this code does:\n\n```python\n", "How do I sort", "Implement a class", "Write a SQL query",
    "Write a JavaScript function", "Write a shell script", "In Python, how", "Write unit tests for", "Given a list",
    "Write a Python script that reads", "def is_", "def find_", "def count_", "Write a C++ function",
)  # fmt: skip
TEXT = ("", "", "The", "In", "A", "How to", "I", "It was", "When", "# ")
SCRIPT = ("def", "import", "from", "class", "#!/", "```python\n", "/*", "function")

MARK = "FORERUNMARK"
_QUESTION, _LEAD = 160, 24


@dataclass(frozen=True)
class Plan:
    """A document to be written. ``opening``: its first words. ``seeds``: of question and answer."""

    number: int
    opening: str
    code: bool
    temperature: float
    seeds: tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """Tokens around what the target writes: ``before`` question, ``between`` question and answer. ``question``: its
    most tokens. ``chat``: whether the target answers questions; else it goes on with a text that it began."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    question: int
    chat: bool


def plan_document(seed: int, number: int, chat: bool) -> Plan:
    """Document ``number``: every second one greedy, the others at 0.7 to 1.0, a third of each about code."""
    random = np.random.default_rng([seed, number])
    code = number // 2 % 3 == 0
    openings = (CODE if code else TALK) if chat else (SCRIPT if code else TEXT)
    opening = openings[int(random.integers(len(openings)))]
    temperature = 0.0 if number % 2 == 0 else round(float(random.uniform(0.7, 1.0)), 2)
    first, second = random.integers(2**31, size=2).tolist()
    return Plan(number, opening, code, temperature, (first, second))


def frame_of(tokenizer: Tokenizer) -> Frame:
    """From the chat template, where there is one that leaves a question as it is."""
    parts = _around(tokenizer) if tokenizer.has_chat_template else None
    if parts is None:
        before = tokenizer.encode("")
        if not before and tokenizer.bos_token_id is not None:
            before = [tokenizer.bos_token_id]
        return Frame(tuple(before), (), _LEAD, False)
    around = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in parts]
    return Frame(around[0], around[1], _QUESTION, True)


def _around(tokenizer: Tokenizer) -> Sequence[str] | None:
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": MARK}])
    except ChatTemplateError:
        return None
    parts = text.split(MARK)
    return parts if len(parts) == 2 else None
