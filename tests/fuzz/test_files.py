"""Files mutated by the hundred: an artifact whose checksums are made right again, checkpoints, tokenizers, templates.

Every mutant is either taken or refused in one line. A mutation is a value out of a JSON document replaced by one that
belongs nowhere, or bytes of a binary file. The seed of each is its number, so that a failure names its mutant.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.checkpoint.chat_template import render_chat
from forerun.compiler.artifact import MANIFEST, checksum, open_artifact
from forerun.compiler.compile import plan_compile
from forerun.config import NeuronConfig
from forerun.errors import ForerunError
from forerun.runtime.loader import RunSettings, open_executor
from tests.checkpoint.gguf_writing import gguf_config, write_gguf
from tests.support.artifacts import tiny_artifact, tiny_settings
from tests.support.reference_models import one_sequence
from tests.support.tiny_checkpoints import write_tiny

ROUNDS = 60
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 7, 2**31 - 1, 2**31, 2**40, 2**64, 10**30, -(2**40), 1.5, -0.0, 1e-30, 1e300, float("inf"),
    float("nan"), "", "x", "a\0b", "\ud800", "../x", "x" * 300, [], [[]], {}, {"": 0}, [2**40], ["x"], "9" * 30,
)  # fmt: skip
NUMBER_OF_5000_DIGITS = "5000 digits"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path to a value inside ``value``."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutate(document: Any, dice: random.Random) -> str:
    """JSON text of ``document`` with one to three values replaced, dropped, doubled or renamed."""
    found = copy.deepcopy(document)
    for _ in range(dice.randint(1, 3)):
        *way, last = dice.choice(list(places(found)))
        holder = found
        for key in way:
            holder = holder[key]
        action = dice.random()
        if action < 0.75:
            holder[last] = copy.deepcopy(dice.choice((*ODD, NUMBER_OF_5000_DIGITS)))
        elif isinstance(holder, dict) and action < 0.85:
            holder["renamed"] = holder.pop(last)
        elif isinstance(holder, dict):
            del holder[last]
        else:
            holder.append(holder[last])
        if not found:
            break
    return json.dumps(found).replace(f'"{NUMBER_OF_5000_DIGITS}"', "9" * 5000)


def flip(content: bytes, dice: random.Random, upto: int) -> bytes:
    """``content`` with a few of its first ``upto`` bytes changed, or cut off."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(min(upto, len(changed)))
        if dice.random() < 0.5:
            changed[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        else:
            odd = struct.pack("<Q", dice.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1)))
            changed[at : at + 8] = odd[: len(changed[at : at + 8])]
    return bytes(changed[: dice.randrange(len(changed))]) if dice.random() < 0.1 else bytes(changed)


def survives(work: Callable[[], object], name: str) -> bool:
    """Whether ``work`` succeeded; what it may raise is one line for a user, with no warning before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            work()
        except ForerunError as error:
            text = str(error)
            assert text and "\n" not in text and len(text) < 2000, (name, text)
            text.encode()
            return False
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    return True


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_artifact(tmp_path_factory.mktemp("artifact"), "qwen3", pa_num_blocks=16).path


def run_artifact(path: Path) -> None:
    """All that a server does with it, and a step over every token."""
    opened = open_artifact(path)
    Tokenizer(opened.tokenizer_files())
    executor = open_executor(opened, None, RunSettings(threads=1, max_rows=64))
    try:
        last = executor.vocab_size - 1
        executor.step(one_sequence([0, last, last // 2], table=[0, 1], want_logits=False))
    except ValueError as error:
        raise ForerunError(f"the step is refused: {error}") from None
    finally:
        executor.close()


@pytest.mark.parametrize("name", ["program.json", "plan.json", "neuron_config.json", "manifest.json"])
def test_artifacts(artifact: Path, name: str) -> None:
    file = artifact / name
    before, manifest = file.read_text(), (artifact / MANIFEST).read_text()
    good = 0
    try:
        for number in range(ROUNDS):
            file.write_text(mutate(json.loads(before), random.Random(f"{name} {number}")))
            if name != MANIFEST:
                listed = json.loads(manifest)
                listed["files"][name] = {"bytes": file.stat().st_size, "sha256": checksum(file)}
                (artifact / MANIFEST).write_text(json.dumps(listed))
            good += survives(lambda: run_artifact(artifact), f"{name} {number}")
    finally:
        file.write_text(before)
        (artifact / MANIFEST).write_text(manifest)
    assert good < ROUNDS, "no mutant was found out"


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_checkpoints(tmp_path: Path, name: str) -> None:
    folder = write_tiny(tmp_path / "model", "llama", shards=2)
    before = (folder / name).read_text() if (folder / name).exists() else '{"eos_token_id": [2], "top_k": 5}'
    for number in range(ROUNDS):
        (folder / name).write_text(mutate(json.loads(before), random.Random(f"{name} {number}")))
        survives(lambda: load(folder), f"{name} {number}")


def load(path: Path) -> None:
    """Read a checkpoint as far as compiling does."""
    checkpoint = open_checkpoint(str(path))
    plan_compile(checkpoint, NeuronConfig.from_dict(tiny_settings().to_dict())).config.to_json()
    for tensor in checkpoint.tensors.values():
        tensor.load()
    Tokenizer(checkpoint.tokenizer_files)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_binary_files(tmp_path: Path, kind: str) -> None:
    if kind == "gguf":
        file = root = tmp_path / "m.gguf"
        write_gguf(file, gguf_config("llama"), kind="Q4_1")
    else:
        root = write_tiny(tmp_path / "model", "llama")
        file = root / "model.safetensors"
    content = file.read_bytes()
    for number in range(ROUNDS):
        file.write_bytes(flip(content, random.Random(f"{kind} {number}"), 6000))
        survives(lambda: load(root), f"{kind} {number}")


def test_tokenizers(artifact: Path) -> None:
    files = dict(open_artifact(artifact).tokenizer_files())
    document = json.loads(files["tokenizer.json"])
    document["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    large = {key: json.dumps(document["model"].pop(key)) for key in ("vocab", "merges")}
    document["model"] |= {key: f"THE {key}" for key in large}
    for number in range(ROUNDS):
        text = mutate(document, random.Random(f"tokenizer {number}"))
        for key, value in large.items():
            text = text.replace(f'"THE {key}"', value)
        changed = {**files, "tokenizer.json": text.encode()}
        survives(lambda: Tokenizer(changed).encode("Hello na\u00efve world 123"), f"tokenizer {number}")  # noqa: B023


PIECES = (
    "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{% if m.role == 'user' %}", "{% endif %}",
    "{{ messages | tojson(indent=99) }}", "{% break %}", "{{ 1 / 0 }}", "{{ '%9d' % 1 }}", "{{ x.y.z }}",
    "{{ messages[9] }}", "{{ raise_exception('no') }}", "{{ ''.join(messages) }}", "{{ range(9) | list }}", "{#", "#}",
    "{{ {}.__class__ }}", "{{ 'a' * 9 }}", "{% macro f() %}", "{% endmacro %}", "{{ f() }}", "{{ strftime_now('%Y') }}",
    "{{ messages | map('upper') | join }}", "{{ 7 ** 7 ** 7 }}", "{% generation %}", "{% endgeneration %}", "\0", "{{",
)  # fmt: skip


def test_templates() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    for number in range(5 * ROUNDS):
        dice = random.Random(f"template {number}")
        template = "".join(dice.choice(PIECES) for _ in range(dice.randint(1, 9)))

        def render(template: str = template) -> str:
            return render_chat(template, messages, add_generation_prompt=True, special_tokens={}, variables={})

        survives(render, f"template {number}: {template}")
