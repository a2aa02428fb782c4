"""Default sampling parameters of an artifact (the original's OnDeviceSamplingConfig). Sampling is always native."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config.fields import no_effect, normalize, setting
from forerun.errors import ConfigError


@dataclass(frozen=True)
class OnDeviceSamplingConfig:
    """What a request gets that does not say otherwise. All of it may change at run time.

    top_k 0 or -1 is off (the whole vocabulary; the original draws uniformly then), top_p 1 and min_p 0 are off,
    temperature 0 is greedy. ``deterministic`` replaces the random number by 0.5: the token at which the cumulative
    probability, most probable first, reaches one half. ``global_topk`` above 0 is a first cut to that many tokens.
    ``min_p`` and ``seed`` are fields of ours.
    """

    do_sample: bool = setting(False, run_time=True)
    top_k: int = setting(1, run_time=True, at_least=-1)
    top_p: float = setting(1.0, run_time=True, at_most=1)
    temperature: float = setting(1.0, run_time=True, at_least=0)
    dynamic: bool = setting(False, run_time=True, status=no_effect("parameters always come with each request"))
    deterministic: bool = setting(False, run_time=True)
    global_topk: int = setting(
        0,
        run_time=True,
        at_least=0,
        differs="the original cuts every request to 256 tokens; 0 here means no such cut",
    )
    top_k_kernel_enabled: bool | None = setting(
        None, run_time=True, status=no_effect("the native sampler has one top-k for every size")
    )
    sampling_dp_degree: int = setting(
        1, run_time=True, at_least=1, status=no_effect("the rows of a step are sampled by all threads together")
    )
    min_p: float = setting(0.0, run_time=True, at_least=0, at_most=1)
    seed: int = setting(0, run_time=True, at_least=0, at_most=2**64 - 1)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        normalize(self)
        if self.top_p <= 0:
            raise ConfigError(f"top_p must be in the range (0.0, 1.0], not {self.top_p}")
        if self.top_k > self.global_topk > 0:
            raise ConfigError(
                f"top_k {self.top_k} is above global_topk {self.global_topk}: lower top_k or raise global_topk"
            )

    @property
    def greedy(self) -> bool:
        """Whether these parameters always take the most probable token."""
        return not self.do_sample or self.temperature == 0 or self.effective_top_k == 1

    @property
    def effective_top_k(self) -> int:
        """How many tokens survive the cuts of top_k and global_topk; 0 is all of them."""
        return self.top_k if self.top_k > 0 else self.global_topk
