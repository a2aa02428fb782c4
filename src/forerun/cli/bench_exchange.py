"""``forerun bench exchange``: what the processes of a rank group pay for meeting."""

from __future__ import annotations

import argparse
import json

from forerun.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the measurement."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines for a machine file")


def run_exchange(args: argparse.Namespace) -> int:
    """Measure with the other processes; the first one prints. Raises ConfigError outside torchrun."""
    from forerun.distributed import launched
    from forerun.distributed.exchange import measure_exchange

    launch = launched()
    if launch is None:
        raise ConfigError(
            "bench exchange measures between processes: torchrun --nproc-per-node 2 --no-python forerun bench exchange"
        )
    costs = measure_exchange(launch)
    if launch.leads:
        link = {"latency_us": round(costs.latency * 1e6, 1), "gb_per_s": round(costs.bandwidth / 1e9, 3)}
        if args.json:
            print(json.dumps({"members": costs.members, "link": link, "seconds": costs.seconds}))
        else:
            print(f"# all-gather of {costs.members} processes, for a machine file of forerun plan")
            print("link:\n" + "\n".join(f"  {name}: {value}" for name, value in link.items()))
    return 0
