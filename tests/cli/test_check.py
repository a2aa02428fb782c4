"""``forerun check``: figures, words, and refusals; once natively from a checkpoint to the table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from forerun.accuracy.divergence import measure
from forerun.accuracy.scoring import ExecutorScorer
from forerun.checkpoint import Tokenizer
from forerun.cli import check
from forerun.cli.check import Models, Progress, Subject
from forerun.cli.main import main
from forerun.errors import AccuracyError
from forerun.runtime.reference import ReferenceExecutor
from tests.support.reference_models import tiny_model
from tests.support.tiny_checkpoints import write_tiny

TEXT = "the sun did shine on the old stone and on the sea, then the rain ended it"
MODEL = tiny_model("llama", seed=1, num_hidden_layers=1)


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return parser.parse_args(argv)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return write_tiny(tmp_path, "llama", seed=1, num_hidden_layers=1)


class Opened:
    """Reference executors in place of native ones; notes what was asked for and closed."""

    def __init__(self, folder: Path, form: str = "int4_f16_min", max_context: int = 512) -> None:
        self.tokenizer, self.form, self.max_context = Tokenizer.from_folder(folder), form, max_context
        self.contexts: list[int] = []
        self.executors: list[ReferenceExecutor] = []

    def __call__(self, args: argparse.Namespace) -> Subject:
        return Subject(self.tokenizer, self.max_context, args.reference or "its own", self.open)

    def open(self, context: int, progress: Progress) -> Models:
        progress("reading", 1, 1)
        self.contexts.append(context)
        self.executors = [MODEL.executor(self.form), MODEL.executor()]
        return Models(self.executors[0], self.executors[1], same_checkpoint=True)


def test_json_has_the_figures_of_measure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened, text = Opened(folder), str(folder / "text.txt")
    args = parse("some-artifact", "--text", text, "--tokens", "30", "--context", "16", "--json")
    assert check.run(args, opened) == 0
    facts = json.loads(capsys.readouterr().out)
    ids = opened.tokenizer.encode(TEXT)[:30]
    scorers = (ExecutorScorer(MODEL.executor()), ExecutorScorer(MODEL.executor("int4_f16_min")))
    expected = measure(*scorers, ids, 16)
    assert facts["mean_kl"] == expected.mean_kl > 0 and facts["agreement"] == expected.agreement
    assert (facts["perplexity"], facts["kl_p99"]) == (expected.perplexity, expected.kl_p99)
    assert facts["tokens"] == 30 and facts["scored"] == 28 and facts["context"] == 16 and opened.contexts == [16]
    assert facts["artifact"] == "some-artifact" and facts["reference"] == "its own"


def test_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Opened(folder, "float32")
    args = parse("some-artifact", "--text", str(folder / "text.txt"), "--reference", "a-checkpoint")
    assert check.run(args, opened) == 0
    lines = capsys.readouterr().out.splitlines()
    count = len(opened.tokenizer.encode(TEXT))
    assert lines[:3] == [
        "artifact            some-artifact",
        "reference           a-checkpoint (float32)",
        f"text                {folder / 'text.txt'}: {count} tokens in pieces of {count}",
    ]
    assert lines[4:] == [
        "mean KL             0.000000 nats per token",
        "99th percentile KL  0.000000 nats",
        "top-1 agreement     100.00%",
    ]
    assert lines[3].startswith("perplexity") and "(reference " in lines[3]


def test_executors_are_closed_at_the_end(folder: Path) -> None:
    opened = Opened(folder)
    args = parse("a", "--text", str(folder / "text.txt"))
    check.run(args, opened)
    for executor in opened.executors:
        with pytest.raises(ValueError, match="closed"):
            list(ExecutorScorer(executor).score([1], 1))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokens", "1"], "--tokens 1: at least 2 are needed"),
        (["--context", "0"], "--context 0: at least 2 are needed"),
        (["--tokens", "9999"], r"--tokens 9999: the text has only \d+ tokens"),
        (["--context", "40"], "--context 40: the artifact was compiled for 32 tokens"),
    ],
)
def test_numbers_that_do_not_fit(folder: Path, flags: list[str], message: str) -> None:
    args = parse("a", "--text", str(folder / "text.txt"), *flags)
    with pytest.raises(AccuracyError, match=message):
        check.run(args, Opened(folder, max_context=32))


def test_texts_that_cannot_be_read(folder: Path) -> None:
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "empty").write_text("")
    for name, message in (("absent", "cannot be read"), ("binary", "not UTF-8"), ("empty", "has 0 tokens")):
        with pytest.raises(AccuracyError, match=message):
            check.run(parse("a", "--text", str(folder / name)), Opened(folder))


@pytest.mark.parametrize("most", [None, 2, 3, 50, 1000])
@pytest.mark.parametrize("text", ["ab " * 1000, ("a" * 500 + " ") * 30])
def test_only_what_matters_of_a_long_text_is_tokenised(text: str, most: int | None) -> None:
    """Also where tokens are longer than those of any text."""
    seen = []

    class Words:
        def encode(self, text: str) -> list[int]:
            seen.append(len(text))
            return [len(word) for word in text.split()]

    wanted = [len(word) for word in text.split()]
    if most is not None and most > len(wanted):
        with pytest.raises(AccuracyError, match=f"has only {len(wanted)} tokens"):
            check.token_ids(Words(), text, most)  # type: ignore[arg-type]
    else:
        assert check.token_ids(Words(), text, most) == wanted[:most]  # type: ignore[arg-type]
    assert text[0:3] != "ab " or most not in (2, 3) or seen == [32 * most]


def test_another_checkpoint_is_said_to_be_another() -> None:
    facts = dict.fromkeys(("tokens", "context", "perplexity", "reference_perplexity", "mean_kl", "kl_p99"), 1)
    facts |= {"agreement": 1}
    words = {"artifact": "a", "reference": "r", "text": "t", "same_checkpoint": False}
    assert "(float32; not the checkpoint that the artifact comes from)" in check.table({**facts, **words})


def test_native_from_checkpoint_to_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = str(folder / "artifact")
    assert main(["compile", str(folder), "-o", artifact, "--quantization-dtype", "int8", "--seq-len", "128"]) == 0
    capsys.readouterr()
    words = ["check", artifact, "--text", str(folder / "text.txt"), "--context", "20", "--threads", "1", "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["reference"] == str(folder) and facts["same_checkpoint"] is True
    assert 0 < facts["mean_kl"] < 0.05 and 0 <= facts["mean_kl"] <= facts["kl_p99"]
    exact = measure(
        ExecutorScorer(MODEL.executor()),
        ExecutorScorer(MODEL.executor("int8_f16")),
        Tokenizer.from_folder(folder).encode(TEXT),
        20,
    )
    assert facts["mean_kl"] == pytest.approx(exact.mean_kl, rel=0.3)
    assert main(["check", artifact, "--text", str(folder / "none.txt")]) == 1
    assert "--text" in capsys.readouterr().err
