"""The flow of inference_demo with a model that only takes notes: order, words, exit status."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from forerun.accuracy.checks import CheckOptions, CheckOutcome
from forerun.cli import inference_demo
from forerun.cli.demo.model import DemoModel
from forerun.config import NeuronConfig, OnDeviceSamplingConfig
from forerun.errors import CheckpointError
from forerun.measure.benchmark_report import Calls
from forerun.opening import ModelRequest
from tests.support.artifacts import tiny_artifact


class FakeModel(DemoModel):
    """Writes down what it is asked to do; it opens an artifact only to compare with it."""

    def __init__(self) -> None:
        self.request: ModelRequest | None = None
        self.calls: list[tuple[str, Any]] = []
        self.accurate = True
        self.compile_error: Exception | None = None

    def __call__(self, request: ModelRequest, say: Callable[[str], None]) -> DemoModel:
        super().__init__(request, say)
        self.request = request
        return self

    @property
    def new(self) -> NeuronConfig:
        """The configuration that would be compiled."""
        assert self.request is not None and self.request.defaults is not None
        return NeuronConfig.from_dict({**self.request.defaults, **self.request.settings})

    def plan(self, model_type: str) -> None:
        self.calls.append(("plan", model_type))

    def compile(self, model_type: str) -> NeuronConfig:
        if self.compile_error:
            raise self.compile_error
        self.calls.append(("compile", model_type))
        return self.new

    def load(self) -> None:
        self.calls.append(("load", None))

    def check_accuracy(self, prompts: Sequence[str], options: CheckOptions, expected: Path | None) -> CheckOutcome:
        self.calls.append(("check", (prompts, options, expected)))
        return CheckOutcome(self.accurate, "the report")

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
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    monkeypatch.setattr(inference_demo, "usable_cores", lambda: 2)
    monkeypatch.delenv("NEURON_LOGICAL_NC_CONFIG", raising=False)
    return FakeModel()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two sequences of 128 tokens."""
    return str(tiny_artifact(tmp_path_factory.mktemp("tiny")).path)


def run(model: FakeModel, *extra: str, artifact: str = "art") -> int:
    base = shlex.split(f"--model-type qwen2 --task-type causal-lm run --model-path m --compiled-model-path {artifact}")
    return inference_demo.main([*base, *extra], model)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, with the seconds replaced."""
    return re.sub(r"\d+\.\d+ seconds", "N seconds", capsys.readouterr().out).splitlines()


def test_words_and_order_of_a_whole_run(model: FakeModel, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    extra = ["--prompt", "a", "--prompt", "b", "--benchmark", "--benchmark-report-path", str(report)]
    assert run(model, *extra, "--fused-qkv") == 0
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
    assert [name for name, _ in model.calls] == ["compile", "load", "generate", "benchmark"]
    assert json.loads(report.read_text())["e2e_model"]["throughput"] == 10
    request = model.request
    assert request is not None and (request.model, request.artifact) == ("m", Path("art"))
    assert model.named("compile") == ["qwen2"] and model.new.batch_size == 2  # as many as prompts


def test_one_prompt_is_copied_to_the_batch(model: FakeModel) -> None:
    assert run(model, "--prompt", "a", "--batch-size", "3", "--do-sample", "--top-k", "9", "--max-new-tokens", "4") == 0
    prompts, sampling, max_new_tokens = model.named("generate")[0]
    assert prompts == ["a", "a", "a"] and max_new_tokens == 4
    assert sampling == OnDeviceSamplingConfig(do_sample=True, top_k=9)


def test_more_prompts_than_the_batch_stop_before_compiling(
    model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--prompt", "a", "--prompt", "b", "--batch-size", "1") == 1
    assert "give --batch-size 2" in capsys.readouterr().err
    assert model.calls == []


@pytest.mark.parametrize(("flag", "done"), [("--compile-only", "compile"), ("--compile-dry-run", "plan")])
def test_stops_after_compiling(model: FakeModel, capsys: pytest.CaptureFixture[str], flag: str, done: str) -> None:
    assert run(model, "--prompt", "a", flag) == 0
    assert model.calls == [(done, "qwen2")]
    assert lines(capsys)[-1] == "Compiling and tracing time: N seconds"


def test_skip_compile_takes_the_stored_settings(
    model: FakeModel, artifact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--prompt", "a", "--skip-compile", "--seq-len", "128", "--do-sample", "--max-new-tokens", "100"]
    assert run(model, *words, artifact=artifact) == 0
    printed = lines(capsys)
    assert "Skipping model compilation" in printed
    assert any(line.startswith("on_device_sampling_config.do_sample") for line in printed)
    prompts, sampling, max_new_tokens = model.named("generate")[0]
    assert sampling.do_sample and max_new_tokens == 100 and [name for name, _ in model.calls] == ["load", "generate"]
    assert prompts == ["a", "a"]  # the stored batch


def test_skip_compile_with_other_settings_shows_the_table_and_stops(
    model: FakeModel, artifact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--prompt", "a", "--skip-compile", "--seq-len", "512", "--quantized"]
    assert run(model, *words, artifact=artifact) == 1
    captured = capsys.readouterr()
    assert "seq_len    512        128       needs a recompile" in captured.out
    assert captured.err.splitlines() == [
        f"error: {artifact} was compiled with other settings: seq_len 512 (stored 128), quantized true (stored false); "
        "compile again or leave them out"
    ]
    assert model.calls == []


def test_ranks_that_are_elsewhere_are_missed_before_anything_is_compiled(
    model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--prompt", "a", "--tp-degree", "4", "--local_ranks_size", "2")
    assert run(model, *few) == 1 and model.calls == []
    assert "local_ranks_size 2 of 4 ranks: the others are in other processes" in capsys.readouterr().err
    assert run(model, *few, "--compile-only") == 0 and model.named("compile")  # for a run that has them all


def test_skip_compile_and_compile_only_contradict(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--prompt", "a", "--skip-compile", "--compile-only") == 1
    assert "drop one" in capsys.readouterr().err


def test_mistakes_are_one_line_on_stderr(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    model.compile_error = CheckpointError("m is not a checkpoint: give a folder")
    assert run(model, "--prompt", "a") == 1
    assert capsys.readouterr().err == "error: m is not a checkpoint: give a folder\n"


def test_no_model_is_made_for_a_refused_command_line(model: FakeModel) -> None:
    def fail(*_: object) -> DemoModel:
        raise AssertionError("made too early")

    base = shlex.split("--model-type llama --task-type causal-lm run --model-path m --compiled-model-path c")
    assert inference_demo.main([*base, "--prompt", "a", "--pp-degree", "64"], fail) == 1


def test_accuracy_request_and_pass(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        model, "--prompt", "a", "--check-accuracy-mode", "logit-matching", "--tol-map", "{5: (0, 0.5)}",
        "--expected-outputs-path", "ref.npz", "--num-tokens-to-check", "7", "--divergence-difference-tol", "0.01",
    )  # fmt: skip
    assert code == 0
    options = CheckOptions("logit-matching", 128, 7, {5: (0.0, 0.5)}, 0.01)
    assert model.named("check") == [(["a"], options, Path("ref.npz"))]
    assert "Checking accuracy by logit matching" in lines(capsys)


def test_failed_token_matching_ends_before_generation(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    model.accurate = False
    assert run(model, "--prompt", "a", "--check-accuracy-mode", "token-matching") == 1
    captured = capsys.readouterr()
    assert "Checking accuracy by token matching\nthe report\n" in captured.out
    assert "token matching failed" in captured.err and not model.named("generate")


def test_failed_logit_matching_is_raised_after_generation(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    model.accurate = False
    assert run(model, "--prompt", "a", "--check-accuracy-mode", "logit-matching") == 1
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
    model: FakeModel, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    assert run(model, "--prompt", "a", *extra) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1 and model.calls == []


def test_cores_of_a_rank_from_flag_and_environment(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "2")
    assert run(model, "--prompt", "a", "--compile-only") == 0 and model.new.logical_nc_config == 2
    assert run(model, "--prompt", "a", "--compile-only", "--logical-neuron-cores", "1") == 0
    assert model.new.logical_nc_config == 1
    assert "--logical-neuron-cores is deprecated: use --logical-nc-config" in lines(capsys)
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "many")
    assert run(model, "--prompt", "a", "--compile-only") == 1
    assert "NEURON_LOGICAL_NC_CONFIG=many" in capsys.readouterr().err
