"""Training: stops change nothing, text that is held out stays out, and the network is the one that is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from forerun.checkpoint import Checkpoint, open_checkpoint
from forerun.engine.generator import Generator
from forerun.engine.params import SamplingParams
from forerun.errors import ConfigError, ForerunError
from forerun.opening import ModelRequest, open_model
from forerun.runtime.loader import RunSettings
from forerun.training.agreement import agreement
from forerun.training.batches import Batches, piece_of
from forerun.training.folder import write_draft
from forerun.training.network import Network
from forerun.training.shape import DraftShape, first_weights, shape_for
from forerun.training.shards import Document
from forerun.training.state import TrainingState
from forerun.training.train import Trainer, TrainSettings
from tests.support.tiny_checkpoints import write_tiny

torch = pytest.importorskip("torch")


def documents(count: int, vocab_size: int = 64) -> list[Document]:
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        tokens = random.integers(vocab_size, size=int(random.integers(9, 30))).tolist()
        made.append(Document(number, tokens, 5, 0.0 if number % 2 else 0.8, code=False))
    return made


def tiny(tmp_path: Path, family: str = "llama", seed: int = 1) -> Checkpoint:
    return open_checkpoint(str(write_tiny(tmp_path / f"{family}{seed}", family, seed=seed)))


def shaped(target: Checkpoint, layers: int = 1, hidden: int | None = None, vocabulary: int = 60) -> DraftShape:
    return shape_for(target.config, layers=layers, hidden=hidden, vocabulary=vocabulary)


def trainer(tmp_path: Path, target: Checkpoint) -> Trainer:
    shape = shaped(target)
    batches = Batches(documents(40), shape.vocab_size, 4, seed=2)
    return Trainer(shape, lambda: first_weights(target, shape, 2), batches, tmp_path / "state.safetensors")


def weights(trained: Trainer) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in trained.state.weights.items()}


def test_stop_and_resume_give_the_same_weights(tmp_path: Path) -> None:
    target, settings = tiny(tmp_path), TrainSettings(25, rate=3e-3, save_every=0, threads=1)
    (tmp_path / "whole").mkdir()
    whole = trainer(tmp_path / "whole", target)
    whole.run(settings, lambda *_: None)

    def stop(what: str, done: int, total: int) -> None:
        if done in (4, 13):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path, target).run(settings, stop)
    resumed = trainer(tmp_path, target)
    assert 0 < resumed.state.step < 25
    resumed.run(settings, lambda *_: None)
    assert resumed.state.step == whole.state.step == 25
    assert weights(resumed) == weights(whole)
    assert np.mean(whole.losses[-5:]) < whole.losses[0]


def test_minutes_end_it(tmp_path: Path) -> None:
    trained = trainer(tmp_path, tiny(tmp_path))
    trained.run(TrainSettings(1_000_000, minutes=0.002), lambda *_: None)
    assert 0 < trained.state.step < 1_000_000
    assert (tmp_path / "state.safetensors").is_file()


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"half")
    with pytest.raises(ForerunError, match=r"state\.safetensors: the state is damaged"):
        trainer(tmp_path, tiny(tmp_path))


def test_steps_of_adam_are_torch_s(tmp_path: Path) -> None:
    first = {"a": np.ones((3, 4), np.float32), "b": np.full(5, 2.0, np.float32)}
    mine = TrainingState.begin({name: value.copy() for name, value in first.items()}, torch.device("cpu"))
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in first.items()}
    groups = [{"params": [theirs["a"]], "weight_decay": 0.01}, {"params": [theirs["b"]], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.98))
    for step in range(5):
        for tensors in (mine.weights, theirs):
            sum((value * (step - 2.0)).sin().sum() for value in tensors.values()).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mine.learn(0.1)
    for name, value in theirs.items():
        assert torch.allclose(value, mine.weights[name], atol=1e-5)


def test_batches_are_a_function_of_seed_and_step() -> None:
    text = documents(70)
    batches, again = Batches(text, 64, 4, seed=1), Batches(text, 64, 4, seed=1)
    early = [piece.ids.tolist() for step in range(3) for piece in batches.pieces(step)]
    list(again.pieces(40))
    assert [piece.ids.tolist() for step in range(3) for piece in again.pieces(step)] == early
    assert [piece.ids.tolist() for piece in Batches(text, 64, 4, seed=2).pieces(0)] != early[:1]


def test_held_out_text_is_never_learnt() -> None:
    text = documents(96)
    batches = Batches(text, 64, 3, seed=1)
    seen: set[tuple[int, ...]] = set()
    for step in range(2 * batches.in_all):
        for piece in batches.pieces(step):
            seen |= {tuple(row[row.nonzero()[0].min() : row.nonzero()[0].max() + 1].tolist()) for row in piece.ids}
    stripped = {document.number: tuple(np.trim_zeros(np.array(document.tokens)).tolist()) for document in text}
    held_out = [stripped[number] for number in (31, 62, 95)]
    assert not seen & set(held_out)
    assert len(seen) == 96 - 3


def test_answers_are_what_is_learnt() -> None:
    piece = piece_of([Document(0, [9, 8, 7, 6, 70, 5], 3, 0.0, False), Document(1, [1, 2, 3], 2, 0.9, False)], 64)
    assert piece.labels.tolist() == [6, 5, 3]  # 70 is not known to the draft
    assert piece.places.tolist() == [2, 4, 6 + 1]
    assert piece.temperatures.tolist() == pytest.approx([0.5, 0.5, 0.9])


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(ForerunError, match="collect more --tokens"):
        Batches([document for document in documents(40) if document.held_out], 64, 4, seed=1)


def test_agreement_is_counted_on_held_out_answers(tmp_path: Path) -> None:
    target = tiny(tmp_path)
    shape = shaped(target)
    network = Network(shape, {name: torch.from_numpy(each) for name, each in first_weights(target, shape, 1).items()})
    prompt = [3, 9, 27]
    answer: list[int] = []
    for _ in range(4):
        with torch.no_grad():
            answer.append(int(network.logits(network.hidden(torch.tensor([[*prompt, *answer]])))[0, -1].argmax()))
    wrong = (answer[-1] + 1) % 60
    text = [
        Document(31, [*prompt, *answer[:3], wrong], 3, 0.0, False),
        Document(62, [*prompt, 99], 3, 0.9, False),  # a token that the draft does not know
        Document(64, [*prompt, 5, 6], 3, 0.0, False),  # not held out
    ]
    assert agreement(network, text) == {"greedy": 0.75, "drawn": 0.0, "known": 0.8}


def greedy(folder: Path, prompts: Sequence[Sequence[int]], tmp_path: Path) -> list[list[int]]:
    model = open_model(
        ModelRequest(str(folder), {"torch_dtype": "float32"}, run=RunSettings(1), artifact=tmp_path / "artifact")
    )
    with Generator(model.executor, model.tokenizer, settings=model.engine) as llm:
        found = llm.generate(list(prompts), SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    return [output.outputs[0].token_ids for output in found]


@pytest.mark.parametrize(
    ("family", "hidden", "vocabulary"),
    [("llama", None, None), ("llama", None, 200), ("qwen3", 32, 150), ("qwen2", None, 270), ("mistral", None, 290)],
)
def test_the_folder_is_the_network(tmp_path: Path, family: str, hidden: int | None, vocabulary: int | None) -> None:
    target = tiny(tmp_path, family)
    shape = shape_for(target.config, layers=2, hidden=hidden, vocabulary=vocabulary)
    state = TrainingState.begin(first_weights(target, shape, 1), torch.device("cpu"))
    rounded = {name: value.detach().bfloat16().float() for name, value in state.weights.items()}
    network = Network(shape, rounded)
    (tmp_path / "draft").mkdir()
    write_draft(tmp_path / "draft", target, shape, state)
    assert sum(value.numel() for value in state.weights.values()) == shape.parameters
    prompts = [[5, 17, 60], [100, 3, 3, 80, 149]]
    for prompt, answer in zip(prompts, greedy(tmp_path / "draft", prompts, tmp_path), strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            logits = network.logits(network.hidden(ids))[0, len(prompt) - 1 : -1]
        best = logits.max(-1).values
        drawn = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        assert torch.all(best - drawn < 2e-3)


def test_all_layers_of_a_tied_llama_are_the_target(tmp_path: Path) -> None:
    target = tiny(tmp_path)
    shape = shape_for(target.config, layers=target.config.num_hidden_layers, hidden=None, vocabulary=None)
    made = first_weights(target, shape, 1)
    assert target.config.tie_word_embeddings
    for name, value in made.items():
        if name != "model.norm.weight":
            assert np.array_equal(value, target.tensors[name].load())


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    target = tiny(tmp_path)
    for wrong, name in (({"vocabulary": 10**6}, "--vocab-size"), ({"hidden": 5000}, "--hidden-size")):
        with pytest.raises(ConfigError, match=name):
            shape_for(target.config, **{"layers": 1, "hidden": None, "vocabulary": None, **wrong})
    with pytest.raises(ConfigError, match="--layers"):
        shaped(target, layers=0)
