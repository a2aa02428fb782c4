"""Settings of the engine that can change from run to run; none of them changes a token."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ConfigError
from forerun.runtime.step import Executor

MOST = 1 << 24
"""Of rows, sequences and tokens: more than any machine has."""


@dataclass(frozen=True)
class EngineSettings:
    """How much the engine does at once. ``None`` means: as much as the executor can.

    - ``max_num_batched_tokens``: rows of a step, prefill and decode together; ``max_num_seqs``: sequences of a step.
    - ``max_queued_requests``: how many requests may wait beyond the ``max_num_seqs`` that run (QueueFullError
      after that).
    - ``policy``: "fcfs" serves in order of arrival, "priority" by ``SamplingParams.priority`` first.
    - ``enable_prefix_caching``: None means as the artifact says, and yes without one. ``max_salt_share``: see kvcache.
    - ``max_model_len``: the longest sequence, prompt and output.
    - ``prompt_logprobs_rows``: prompt rows whose full logits are fetched per step (bounds memory: rows x
      vocabulary x 4 bytes).
    - ``speculative_config``: draft tokens that a step verifies (None: none).
    - ``max_failures``: executor failures in a row after which the engine calls itself unhealthy.
    """

    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    max_queued_requests: int = 1024
    policy: str = "fcfs"
    enable_prefix_caching: bool | None = None
    max_salt_share: float = 0.5
    max_model_len: int | None = None
    prompt_logprobs_rows: int = 64
    max_failures: int = 3
    speculative_config: SpeculativeConfig | None = None

    def __post_init__(self) -> None:
        if self.policy not in ("fcfs", "priority"):
            raise ConfigError(f"policy must be 'fcfs' or 'priority', not '{self.policy}'")
        if not 0 < self.max_salt_share <= 1:
            raise ConfigError(f"max_salt_share must be above 0 and at most 1, not {self.max_salt_share}")
        for name in ("max_num_batched_tokens", "max_num_seqs", "max_model_len", "prompt_logprobs_rows", "max_failures"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                bound = "at least 1" if value < 1 else f"at most {MOST}"
                raise ConfigError(f"{name} must be {bound}, not {value}")
        if self.max_queued_requests < 0:
            raise ConfigError(f"max_queued_requests must not be negative, not {self.max_queued_requests}")


@dataclass(frozen=True)
class StepLimits:
    """What one step may hold: settings and executor taken together."""

    rows: int
    seqs: int
    extra_samples: int  # sampled rows beyond one per sequence: prompt log-probabilities and drafts
    score_rows: int

    @staticmethod
    def of(settings: EngineSettings, executor: Executor) -> StepLimits:
        """Combine both; raises ConfigError when the settings ask for more than the executor has."""
        rows = settings.max_num_batched_tokens or executor.max_rows
        seqs = settings.max_num_seqs or min(executor.max_seqs, executor.max_sample_rows, rows)
        if rows > executor.max_rows:
            raise ConfigError(f"max_num_batched_tokens ({rows}) is above the {executor.max_rows} rows of the artifact")
        if seqs > min(executor.max_seqs, executor.max_sample_rows):
            have = min(executor.max_seqs, executor.max_sample_rows)
            raise ConfigError(f"max_num_seqs ({seqs}) is above the {have} sequences of the artifact")
        if rows < seqs:
            raise ConfigError(f"max_num_batched_tokens ({rows}) must be at least max_num_seqs ({seqs})")
        return StepLimits(rows, seqs, executor.max_sample_rows - seqs, settings.prompt_logprobs_rows)
