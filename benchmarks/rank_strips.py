"""What strips of rows gain where ranks in several processes exchange: factors in turns within one group of processes.

torchrun --nproc-per-node 2 --no-python python benchmarks/rank_strips.py ARTIFACT [--factors 1 2 4] [--rows 256]
    [--rounds 15] [--latency-us 1000 --gb-per-s 0.125]

With a latency and a bandwidth results wait as long as they would on such a link, one after the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence

import numpy as np

from forerun.compiler.artifact import open_artifact
from forerun.distributed.launch import launched
from forerun.distributed.members import Link
from forerun.opening.ranks import own_share
from forerun.runtime.loader import RunSettings
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.ranks import Bytes, Finish, RankGroup, begins_of
from forerun.runtime.step import SamplingRows, StepInput
from forerun.runtime.weights import map_weights

DECODED = 8
BLOCK = 32


class SlowLink:
    """An all-gather that takes as long as a link of some latency and bandwidth would."""

    def __init__(self, link: Link, latency: float, bandwidth: float) -> None:
        self._link, self._latency, self._bandwidth = link, latency, bandwidth
        self._free = 0.0

    def all_gather(self, send: Bytes, counts: Sequence[int]) -> Finish:
        """See forerun.runtime.ranks."""
        done = self._link.all_gather(send, counts)
        taken = (sum(counts) - len(send)) / self._bandwidth if self._bandwidth else 0.0
        self._free = max(time.monotonic(), self._free) + taken
        ready = self._free + self._latency

        def finish(receive: Bytes) -> None:
            done(receive)
            time.sleep(max(0.0, ready - time.monotonic()))

        return finish


def step_of(ids: list[int], first: int, blocks: int) -> StepInput:
    """One sequence's rows from position ``first`` on."""
    positions = np.arange(first, first + len(ids), dtype=np.int32)
    ends = np.array([0, len(ids)], np.int32)
    table = np.arange(blocks, dtype=np.int32)[None, :]
    return StepInput(
        np.array(ids, np.int32), positions, ends, table, ends[1:] - 1, SamplingRows.greedy(1), want_logits=False
    )


def main() -> None:
    """Every process does the same; the first one prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--latency-us", type=float, default=0.0)
    parser.add_argument("--gb-per-s", type=float, default=0.0)
    args = parser.parse_args()
    launch = launched()
    if launch is None:
        parser.error("start it with torchrun")
    link = Link(launch)
    own_share(RunSettings())
    slow = SlowLink(link, args.latency_us * 1e-6, args.gb_per_s * 1e9)
    group = RankGroup(launch.member, begins_of(launch.members, launch.members), slow.all_gather)
    artifact = open_artifact(args.artifact)
    weights = map_weights(artifact, artifact.program, group.ranks)
    blocks = args.rows // BLOCK + 1
    executors = {
        factor: NativeExecutor(
            artifact.program, weights, NativeOptions(blocks, BLOCK, max_rows=args.rows, strips=factor), group=group
        )
        for factor in args.factors
    }
    ids = [int(n) for n in np.random.default_rng(0).integers(0, artifact.program.vocab_size, args.rows)]
    prompt, token = step_of(ids, 0, blocks), step_of(ids[:1], args.rows, blocks)
    speeds: dict[int, list[tuple[float, float]]] = {factor: [] for factor in args.factors}
    for number in range(args.rounds + 1):
        for factor in args.factors if number % 2 else args.factors[::-1]:
            began = time.perf_counter()
            executors[factor].step(prompt)
            read = time.perf_counter()
            for _ in range(DECODED):
                executors[factor].step(token)
            if number:  # the first round warms up
                speeds[factor].append((args.rows / (read - began), DECODED / (time.perf_counter() - read)))
    if launch.leads:
        for factor, found in speeds.items():
            reading, making = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"factor {factor}: {reading:.0f} prompt tokens/s, {making:.2f} tokens/s", flush=True)
    link.close()
    os._exit(0)  # gloo's threads are not waited for


if __name__ == "__main__":
    main()
