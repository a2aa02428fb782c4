"""How often a looked up token is right, before the request has said anything about it."""

from __future__ import annotations

from collections.abc import Sequence

# By source; then a line for each length of the context (1 to 8), and by how the token followed it: once and nothing
# else did; two or three times; more often; in at least 75, 50, 30 % of all times; in fewer. Fitted to 250 answers that
# the default model gave to its own questions, half of them greedy, half at temperature 0.8 (docs/speculation.md).
# fmt: off
_OWN_WORDS, _EARLIER_ANSWERS, _TABLE = (
    [
        0.22, 0.49, 0.75, 0.50, 0.19, 0.16, 0.11,
        0.45, 0.75, 0.91, 0.74, 0.30, 0.17, 0.13,
        0.54, 0.82, 0.95, 0.65, 0.31, 0.22, 0.12,
        0.65, 0.87, 0.93, 0.57, 0.39, 0.23, 0.17,
        0.71, 0.92, 0.97, 0.47, 0.37, 0.24, 0.10,
        0.76, 0.92, 0.98, 0.72, 0.33, 0.29, 0.10,
        0.78, 0.93, 0.99, 0.89, 0.43, 0.23, 0.20,
        0.89, 0.98, 0.99, 0.92, 0.50, 0.32, 0.23,
    ],
    [
        0.11, 0.23, 0.42, 0.21, 0.15, 0.18, 0.11,
        0.20, 0.42, 0.59, 0.49, 0.19, 0.17, 0.08,
        0.22, 0.41, 0.68, 0.38, 0.24, 0.17, 0.10,
        0.33, 0.57, 0.65, 0.43, 0.22, 0.23, 0.16,
        0.37, 0.48, 0.80, 0.48, 0.28, 0.17, 0.14,
        0.48, 0.71, 0.82, 0.54, 0.35, 0.26, 0.06,
        0.48, 0.71, 0.82, 0.53, 0.35, 0.26, 0.05,
        0.23, 0.43, 0.61, 0.39, 0.20, 0.18, 0.11,
    ],
    [
        0.33, 0.33, 0.45, 0.42, 0.25, 0.17, 0.13,
        0.33, 0.36, 0.69, 0.57, 0.26, 0.24, 0.13,
        0.33, 0.55, 0.84, 0.69, 0.39, 0.26, 0.14,
        0.33, 0.55, 0.84, 0.69, 0.39, 0.26, 0.14,
        0.33, 0.47, 0.79, 0.63, 0.33, 0.23, 0.13,
        0.33, 0.47, 0.79, 0.63, 0.33, 0.23, 0.13,
        0.33, 0.47, 0.79, 0.63, 0.33, 0.23, 0.13,
        0.33, 0.47, 0.79, 0.63, 0.33, 0.23, 0.13,
    ],
)
# fmt: on
PRIOR: Sequence[float] = (*_OWN_WORDS, *_EARLIER_ANSWERS, *_TABLE)
"""By ``source * SUFFIX_BUCKETS + suffix_bucket``."""
SOURCES = ("prompt_and_answer", "earlier_answers", "table")
"""By number: where a looked up token comes from."""
