"""Draft models by flags: the original's way of counting, vLLM's, and what is said about both."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from forerun.accuracy.checks import CheckOutcome
from forerun.cli.inference_demo import main
from forerun.cli.parser import Parser
from forerun.cli.serve import add_arguments, engine_settings, notices
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ConfigError
from forerun.measure.benchmark_report import DRAFTED
from forerun.runtime.native import NativeExecutor
from tests.support.tiny_checkpoints import write_tiny

WORDS = ["--model-type", "llama", "--task-type", "causal-lm", "run", "--prompt", "abc", "--seq-len", "96"]


def parse(*words: str) -> argparse.Namespace:
    parser = Parser(prog="forerun serve", allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(words)


def drafts(*words: str) -> SpeculativeConfig | None:
    return engine_settings(parse(*words)).speculative_config


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--speculative-model D", SpeculativeConfig("draft_model", 6, model="D")),
        ("--speculative-model D --num-speculative-tokens 7", SpeculativeConfig("draft_model", 7, model="D")),
        ("--spec-model D --spec-tokens 3", SpeculativeConfig("draft_model", 3, model="D")),
        ("--draft-model-path D --speculation-length 7", SpeculativeConfig("draft_model", 6, model="D")),
        (
            "--draft-model-path D --speculation-length 4 --enable-fused-speculation --compiled-draft-model-path C",
            SpeculativeConfig("draft_model", 3, model="D", compiled="C", fused=True),
        ),
        (
            '--spec-model D --num-speculative-tokens 7 --override-neuron-config {"enable_fused_speculation":true}',
            SpeculativeConfig("draft_model", 6, model="D", fused=True),
        ),
        (
            '--speculative-model D --override-neuron-config {"speculation_length":5}',
            SpeculativeConfig("draft_model", 4, model="D"),
        ),
        (
            "--speculative-model D --speculative-model-quantization int4",
            SpeculativeConfig("draft_model", 6, model="D", quantization="int4"),
        ),
        (
            '--speculative-config {"model":"D","num_speculative_tokens":5,"draft_tensor_parallel_size":1}',
            SpeculativeConfig("draft_model", 5, model="D"),
        ),
        (
            "--speculative-model [ngram] --num-speculative-tokens 5 --ngram-prompt-lookup-max 4",
            SpeculativeConfig("ngram", 5, 2, 4, 0, "none"),
        ),
        ("--num-speculative-tokens 5", None),
        ("--draft-model-path D --speculation-length 1", None),
    ],
)
def test_what_is_drafted(words: str, expected: SpeculativeConfig | None) -> None:
    assert drafts(*words.split()) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--draft-model-path D --speculation-length 99", "--speculation-length must be within 0..65, not 99"),
        ("--compiled-draft-model-path C", "--compiled-draft-model-path needs --draft-model-path"),
        ('--speculative-model D --speculative-config {"method":"suffix"}', "two ways to say one thing"),
        ('--speculative-config {"method":"draft_model"}', "method draft_model needs a model"),
        ('--speculative-config {"model":"D","method":"suffix"}', "method draft_model needs a model"),
        ('--speculative-config {"model":"D","draft_tensor_parallel_size":0}', "within 1..1024, not 0"),
        ('--speculative-config {"model":7}', "must be a text"),
        ("--speculative-model D --speculative-model-quantization fp8", "int8 or int4, not fp8"),
        ("--speculative-model D --num-speculative-tokens 0", "num_speculative_tokens"),
    ],
)
def test_mistakes_are_one_line(words: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        drafts(*words.split())
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_log_says_how_lengths_are_counted() -> None:
    fused = ["--override-neuron-config", '{"enable_fused_speculation":true}']
    said = notices(parse("--speculative-model", "D", "--num-speculative-tokens", "7", *fused))
    assert "--num-speculative-tokens 7: up to 6 drafted tokens + 1 a step" in said
    said = notices(parse("--num-speculative-tokens", "7", *fused))
    assert "enable_fused_speculation, --num-speculative-tokens: no effect without --speculative-model" in said


def test_the_demo_runs_with_a_draft_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    model = str(write_tiny(tmp_path / "model", "llama", seed=1))
    words = [
        *WORDS,
        "--max-new-tokens",
        "20",
        "--model-path",
        model,
        "--compiled-model-path",
        str(tmp_path / "artifact"),
    ]
    texts = []
    for extra in ("", f"--draft-model-path {model} --speculation-length 4 --compiled-draft-model-path {tmp_path}/d"):
        assert main([*words, *extra.split()]) == 0
        out = capsys.readouterr().out
        texts.append([line for line in out.splitlines() if line.startswith("Output 0:")])
    assert texts[0] == texts[1] and "--speculation-length 4: up to 3 drafted tokens + 1 a step" in out
    assert (tmp_path / "d" / "manifest.json").is_file()
    assert main([*words, "--draft-model-path", model]) == 1
    assert "--draft-model-path needs --speculation-length" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "row"), [("", "speculation_model"), ("--enable-fused-speculation", DRAFTED)])
def test_the_benchmark_has_a_row_for_speculation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, row: str
) -> None:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    model, report = str(write_tiny(tmp_path / "model", "llama", seed=1)), tmp_path / "report.json"
    words = [*WORDS, "--max-context-length", "40", "--max-new-tokens", "12", "--batch-size", "2", "--benchmark"]
    words += ["--model-path", model, "--compiled-model-path", str(tmp_path / "artifact"), *flag.split()]
    words += ["--draft-model-path", model, "--speculation-length", "4", "--benchmark-report-path", str(report)]
    assert main(words) == 0
    rows = json.loads(report.read_text("utf-8"))
    assert {name for name, value in rows.items() if value} == {"e2e_model", "context_encoding_model", row, "notes"}
    assert rows[row]["throughput"] > 0


def test_draft_logit_matching_checks_the_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    asked: list[tuple[Any, ...]] = []

    def check(*arguments: Any) -> CheckOutcome:
        asked.append(arguments)
        return CheckOutcome(True, "the report")

    monkeypatch.setattr("forerun.cli.demo.model.check_accuracy", check)
    target, draft = (str(write_tiny(tmp_path / name, "llama", seed=1)) for name in ("target", "draft"))
    words = [*WORDS, "--max-new-tokens", "4", "--check-accuracy-mode", "draft-logit-matching"]
    words += ["--model-path", target, "--compiled-model-path", str(tmp_path / "artifact")]
    assert main(words) == 1 and "needs --draft-model-path" in capsys.readouterr().err
    assert main([*words, "--draft-model-path", draft, "--speculation-length", "4"]) == 0
    executor, _, _, _, options, name, _ = asked[0]
    assert isinstance(executor, NativeExecutor) and options.mode == "logit-matching" and name == draft
