"""The state of a training: weights, moments of Adam, step and time; on the disk whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from forerun.errors import ForerunError
from forerun.training.files import write_whole
from forerun.training.torch_module import need_torch

Tensors = dict[str, Any]
_KINDS = ("weight", "mean", "square")
_BETAS, _TINY, _DECAY = (0.9, 0.98), 1e-8, 0.01


@dataclass
class TrainingState:
    """``means`` and ``squares``: running ones of the gradients. ``step``: steps made; ``spent``: seconds in them."""

    weights: Tensors
    means: Tensors
    squares: Tensors
    step: int = 0
    spent: float = 0.0

    @staticmethod
    def begin(weights: Mapping[str, Any], device: Any) -> TrainingState:
        """From NumPy tensors, nothing learnt yet."""
        torch = need_torch()
        made = {name: torch.from_numpy(value).to(device, copy=True).requires_grad_() for name, value in weights.items()}
        means, squares = ({name: torch.zeros_like(value) for name, value in made.items()} for _ in range(2))
        return TrainingState(made, means, squares)

    def learn(self, rate: float) -> None:
        """One step of AdamW with the gradients that the weights hold, whose norm is cut at 1; they are cleared."""
        torch = need_torch()
        self.step += 1
        names = sorted(name for name, weight in self.weights.items() if weight.grad is not None)
        gradients = [self.weights[name].grad for name in names]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
        cut = torch.clamp(1.0 / (norm + 1e-6), max=1.0)
        first, second = _BETAS
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                weight, mean, square = self.weights[name], self.means[name], self.squares[name]
                gradient = gradient * cut
                mean.lerp_(gradient, 1 - first)
                square.lerp_(gradient * gradient, 1 - second)
                size = (square / (1 - second**self.step)).sqrt_().add_(_TINY)
                if weight.dim() > 1:
                    weight.mul_(1 - rate * _DECAY)
                weight.addcdiv_(mean, size, value=-rate / (1 - first**self.step))
                weight.grad = None

    def save(self, path: Path) -> None:
        """Replace what is there."""
        groups = zip(_KINDS, (self.weights, self.means, self.squares), strict=True)
        tensors = {f"{kind}/{name}": value.detach().cpu() for kind, group in groups for name, value in group.items()}
        facts = {"step": str(self.step), "spent": repr(self.spent)}
        write_whole(path, import_module("safetensors.torch").save(tensors, facts))

    @staticmethod
    def load(path: Path, device: Any) -> TrainingState:
        """Raises ForerunError when the file is damaged."""
        safetensors = import_module("safetensors")
        groups: dict[str, Tensors] = {kind: {} for kind in _KINDS}
        try:
            with safetensors.safe_open(path, "pt") as file:
                facts = file.metadata()
                for key in file.keys():  # noqa: SIM118, it is no mapping
                    kind, _, name = key.partition("/")
                    groups[kind][name] = file.get_tensor(key).to(device, copy=True)
            for weight in groups["weight"].values():
                weight.requires_grad_()
            weights, means, squares = (groups[kind] for kind in _KINDS)
            return TrainingState(weights, means, squares, int(facts["step"]), float(facts["spent"]))
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise ForerunError(f"{path}: the state is damaged ({error}); delete it to begin anew") from None
