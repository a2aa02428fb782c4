"""The draft learns the target's own answers: steps with a falling rate, saved so that a stop loses little."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forerun.host.files import read_text
from forerun.training.batches import Batches, Piece
from forerun.training.network import Network
from forerun.training.shape import DraftShape, Float32
from forerun.training.state import TrainingState
from forerun.training.torch_module import need_torch

Tell = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""
_WARM_UP = 40
_LAST_RATE = 0.05


@dataclass(frozen=True)
class TrainSettings:
    """``steps``: in all. ``minutes``: of training, after which it ends earlier (None: no limit). ``rate``: the highest
    learning rate. ``save_every``: seconds between saved states. ``threads``: 0 leaves it to torch."""

    steps: int
    minutes: float | None = None
    rate: float = 3e-3
    save_every: float = 60.0
    threads: int = 0

    def progress(self, state: TrainingState) -> float:
        """How much of the training is done, 1 being the end."""
        spent = 0.0 if self.minutes is None else state.spent / (60 * self.minutes)
        return max(state.step / self.steps, spent)


class Trainer:
    """One training, from its first weights or from the state in ``path``."""

    def __init__(
        self, shape: DraftShape, first: Callable[[], Mapping[str, Float32]], batches: Batches, path: Path
    ) -> None:
        torch = need_torch()
        self._torch, self._batches, self._path = torch, batches, path
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        there = path.is_file()
        self.state = TrainingState.load(path, self._device) if there else TrainingState.begin(first(), self._device)
        self.network = Network(shape, self.state.weights)
        self.losses: list[float] = []

    def run(self, settings: TrainSettings, tell: Tell) -> None:
        """Train to the end; what is stopped goes on from the last saved state when it is run again."""
        if settings.threads:
            self._torch.set_num_threads(settings.threads)
        saved = time.monotonic()
        while (progress := settings.progress(self.state)) < 1:
            began = time.monotonic()
            loss = self._step(settings.rate * self._share(progress))
            self.state.spent += time.monotonic() - began
            self.losses.append(loss)
            done = round(settings.progress(self.state) * settings.steps)
            tell(f"loss {loss:.3f}", min(done, settings.steps), settings.steps)
            if time.monotonic() - saved >= settings.save_every:
                self.state.save(self._path)
                saved = time.monotonic()
        self.state.save(self._path)

    def _share(self, progress: float) -> float:
        """Of the highest rate: rising at first, then falling to a small rest."""
        return min((self.state.step + 1) / _WARM_UP, 1 - (1 - _LAST_RATE) * progress)

    def _step(self, rate: float) -> float:
        pieces = list(self._batches.pieces(self.state.step))
        count, total = sum(len(piece.labels) for piece in pieces), 0.0
        for piece in pieces:
            loss = self._loss(piece) / count
            loss.backward()
            total += float(loss.detach())
        if pieces:
            self.state.learn(rate)
        else:
            self.state.step += 1
        return total

    def _loss(self, piece: Piece) -> Any:
        """Sum over the piece's tokens of minus their log-probability, at the temperature that they were drawn at."""
        torch = self._torch
        ids, places, labels, temperatures = (
            torch.from_numpy(each).to(self._device)
            for each in (piece.ids, piece.places, piece.labels, piece.temperatures)
        )
        with shorter_numbers(self._device):
            hidden = self.network.hidden(ids).flatten(0, 1)[places] / temperatures[:, None]
            logits = self.network.logits(hidden)
        return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")


def shorter_numbers(device: Any) -> AbstractContextManager[Any]:
    """Products in bfloat16 where the hardware has them."""
    fast = device.type == "cuda" or "avx512_bf16" in (read_text(Path("/proc/cpuinfo")) or "")
    return need_torch().autocast(device.type, need_torch().bfloat16) if fast else nullcontext()
