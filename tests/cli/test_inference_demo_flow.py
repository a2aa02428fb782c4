"""The flow of inference_demo with a backend that only takes notes: order, words, exit status."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from forerun.cli import inference_demo
from forerun.cli.demo_backend import AccuracyRequest, AccuracyResult
from forerun.config import NeuronConfig, OnDeviceSamplingConfig
from forerun.errors import CheckpointError
from forerun.measure.benchmark_report import Calls


class FakeBackend:
    """Writes down what it is asked to do."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.stored = NeuronConfig(seq_len=256, batch_size=2)
        self.accurate = True
        self.compile_error: Exception | None = None

    def compile(self, model_path: str, artifact: Path, config: NeuronConfig, *, model_type: str, dry_run: bool) -> None:
        if self.compile_error:
            raise self.compile_error
        self.calls.append(("compile", (model_path, str(artifact), config, model_type, dry_run)))

    def stored_config(self, artifact: Path) -> NeuronConfig:
        return self.stored

    def load(self, artifact: Path, config: NeuronConfig) -> None:
        self.calls.append(("load", config))

    def check_accuracy(self, request: AccuracyRequest) -> AccuracyResult:
        self.calls.append(("check", request))
        return AccuracyResult(self.accurate, "the report")

    def generate(
        self, prompts: Sequence[str], sampling: OnDeviceSamplingConfig, max_new_tokens: int | None
    ) -> list[str]:
        self.calls.append(("generate", (list(prompts), sampling, max_new_tokens)))
        return [f"{prompt} yes" for prompt in prompts]

    def benchmark(self, runs: int) -> Mapping[str, Calls]:
        self.calls.append(("benchmark", runs))
        return {"e2e_model": Calls((1.0,), (10,))}

    def named(self, name: str) -> list[Any]:
        return [value for call, value in self.calls if call == name]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    monkeypatch.setattr(inference_demo, "usable_cores", lambda: 2)
    monkeypatch.delenv("NEURON_LOGICAL_NC_CONFIG", raising=False)
    return FakeBackend()


def run(backend: FakeBackend, *extra: str) -> int:
    base = shlex.split("--model-type qwen2 --task-type causal-lm run --model-path m --compiled-model-path art")
    return inference_demo.main([*base, *extra], lambda: backend)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, with the seconds replaced."""
    return re.sub(r"\d+\.\d+ seconds", "N seconds", capsys.readouterr().out).splitlines()


def test_words_and_order_of_a_whole_run(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    extra = ["--prompt", "a", "--prompt", "b", "--benchmark", "--benchmark-report-path", str(report)]
    assert run(backend, *extra, "--fused-qkv") == 0
    printed = lines(capsys)
    assert printed[:12] == [
        "Loading configs...",
        "--fused-qkv: no effect here: q, k and v are always one matrix",
        "Compiling and saving model...",
        "Compiling and tracing time: N seconds",
        "Loading model to CPU...",
        "Total model loading time: N seconds",
        "Skipping accuracy check",
        "Generating outputs...",
        "Prompts: ['a', 'b']",
        "Generated outputs:",
        "Output 0: a yes",
        "Output 1: b yes",
    ]
    assert printed[12:14] == [
        "Starting end-to-end benchmark with 20",
        "Benchmark completed and its result is as following",
    ]
    assert printed[-1] == f"Completed saving result to {report}"
    assert [name for name, _ in backend.calls] == ["compile", "load", "generate", "benchmark"]
    assert json.loads(report.read_text())["e2e_model"]["throughput"] == 10
    model_path, artifact, config, model_type, dry_run = backend.named("compile")[0]
    assert (model_path, artifact, model_type, dry_run) == ("m", "art", "qwen2", False)
    assert config.batch_size == 2  # as many as prompts


def test_one_prompt_is_copied_to_the_batch(backend: FakeBackend) -> None:
    assert (
        run(backend, "--prompt", "a", "--batch-size", "3", "--do-sample", "--top-k", "9", "--max-new-tokens", "4") == 0
    )
    prompts, sampling, max_new_tokens = backend.named("generate")[0]
    assert prompts == ["a", "a", "a"] and max_new_tokens == 4
    assert sampling == OnDeviceSamplingConfig(do_sample=True, top_k=9)


def test_more_prompts_than_the_batch_stop_before_compiling(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(backend, "--prompt", "a", "--prompt", "b", "--batch-size", "1") == 1
    assert "give --batch-size 2" in capsys.readouterr().err
    assert backend.calls == []


@pytest.mark.parametrize(("flag", "dry"), [("--compile-only", False), ("--compile-dry-run", True)])
def test_stops_after_compiling(backend: FakeBackend, capsys: pytest.CaptureFixture[str], flag: str, dry: bool) -> None:
    assert run(backend, "--prompt", "a", flag) == 0
    assert [name for name, _ in backend.calls] == ["compile"]
    assert backend.named("compile")[0][-1] is dry
    assert lines(capsys)[-1] == "Compiling and tracing time: N seconds"


def test_skip_compile_takes_the_stored_settings(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(backend, "--prompt", "a", "--skip-compile", "--seq-len", "256", "--do-sample", "--max-new-tokens", "200")
        == 0
    )
    printed = lines(capsys)
    assert "Skipping model compilation" in printed
    assert any(line.startswith("on_device_sampling_config.do_sample") for line in printed)
    loaded = backend.named("load")[0]
    assert loaded.seq_len == 256 and loaded.sampling.do_sample and loaded.max_new_tokens == 200
    assert backend.named("generate")[0][0] == ["a", "a"]  # the stored batch


def test_skip_compile_with_other_settings_shows_the_table_and_stops(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(backend, "--prompt", "a", "--skip-compile", "--seq-len", "512", "--quantized") == 1
    captured = capsys.readouterr()
    assert "seq_len    512        256       needs a recompile" in captured.out
    assert captured.err.splitlines() == [
        "error: art was compiled with other settings: seq_len 512 (stored 256), quantized true (stored false); "
        "compile again or leave them out"
    ]
    assert backend.calls == []


def test_skip_compile_and_compile_only_contradict(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(backend, "--prompt", "a", "--skip-compile", "--compile-only") == 1
    assert "drop one" in capsys.readouterr().err


def test_mistakes_are_one_line_on_stderr(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.compile_error = CheckpointError("m is not a checkpoint: give a folder")
    assert run(backend, "--prompt", "a") == 1
    assert capsys.readouterr().err == "error: m is not a checkpoint: give a folder\n"


def test_the_backend_is_not_made_for_a_refused_command_line(backend: FakeBackend) -> None:
    def fail() -> FakeBackend:
        raise AssertionError("made too early")

    base = shlex.split("--model-type llama --task-type causal-lm run --model-path m --compiled-model-path c")
    assert inference_demo.main([*base, "--prompt", "a", "--tp-degree", "64"], fail) == 1


def test_accuracy_request_and_pass(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        backend, "--prompt", "a", "--check-accuracy-mode", "logit-matching", "--tol-map", "{5: (0, 0.5)}",
        "--expected-outputs-path", "ref.npz", "--num-tokens-to-check", "7", "--divergence-difference-tol", "0.01",
    )  # fmt: skip
    assert code == 0
    request = backend.named("check")[0]
    assert request == AccuracyRequest("logit-matching", "m", ["a"], Path("ref.npz"), 0.01, {5: (0.0, 0.5)}, 7)
    assert "Checking accuracy by logit matching" in lines(capsys)


def test_failed_token_matching_ends_before_generation(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.accurate = False
    assert run(backend, "--prompt", "a", "--check-accuracy-mode", "token-matching") == 1
    captured = capsys.readouterr()
    assert "Checking accuracy by token matching\nthe report\n" in captured.out
    assert "token matching failed" in captured.err and not backend.named("generate")


def test_failed_logit_matching_is_raised_after_generation(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.accurate = False
    assert run(backend, "--prompt", "a", "--check-accuracy-mode", "logit-matching") == 1
    captured = capsys.readouterr()
    assert "Output 0: a yes" in captured.out and "logit matching failed" in captured.err


@pytest.mark.parametrize(
    "extra",
    [
        ["--tol-map", "{"],
        ["--num-tokens-to-check", "0"],
        ["--divergence-difference-tol", "-1"],
        ["--benchmark", "--benchmark-report-path", "/nonexistent-folder/report.json"],
    ],
)
def test_wrong_evaluation_flags_stop_before_compiling(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    assert run(backend, "--prompt", "a", *extra) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1 and backend.calls == []


def test_cores_of_a_rank_from_flag_and_environment(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "2")
    assert run(backend, "--prompt", "a", "--compile-only") == 0
    assert run(backend, "--prompt", "a", "--compile-only", "--logical-neuron-cores", "1") == 0
    assert [call[2].logical_nc_config for call in backend.named("compile")] == [2, 1]
    assert "--logical-neuron-cores is deprecated: use --logical-nc-config" in lines(capsys)
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "many")
    assert run(backend, "--prompt", "a", "--compile-only") == 1
    assert "NEURON_LOGICAL_NC_CONFIG=many" in capsys.readouterr().err
