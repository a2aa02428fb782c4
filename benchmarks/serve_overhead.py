"""What a token costs outside the native step: engine, event loop and whatever else keeps the next step waiting.

Run: PYTHONPATH=src python benchmarks/serve_overhead.py [MODEL] [--clients 1 8] [--tokens 256] [--rounds 4]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from report import run
from serving import forerun_server

from forerun.bench.client import Target, send_all

PROGRAM = Path(__file__).with_name("timed_server.py")


def main() -> int:
    """Stream to each number of clients in turns, then print what the server noted."""
    parser = argparse.ArgumentParser(description="Time per step outside the native executor, under streaming clients.")
    parser.add_argument("model", nargs="?", default="default", help="what forerun serve takes (default 'default')")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[1, 8], metavar="N", help="at the same time (default 1 8)"
    )
    parser.add_argument("--tokens", type=int, default=256, help="tokens per answer (default 256)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds, all of which count (default 4)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        flags = ("--max-num-seqs", str(max(args.clients)))
        with forerun_server(args.model, *flags, program=(str(PROGRAM), str(times))) as url:
            for turn in range(args.rounds):
                for clients in args.clients:
                    prompts = [f"Story {turn}-{number}, about a lighthouse:" for number in range(clients)]
                    body = {"max_tokens": args.tokens, "temperature": 0, "ignore_eos": True}
                    send_all(Target((f"{url}/v1",)), [{"prompt": prompt, **body} for prompt in prompts])
        found = json.loads(times.read_text())
    print("| clients | steps | native us | outside us | outside / native |\n|---:|---:|---:|---:|---:|")
    for clients in args.clients:
        steps, native, outside = found[str(clients)]
        print(f"| {clients} | {steps} | {native * 1e6:.0f} | {outside * 1e6:.0f} | {outside / native:.1%} |")
    return 0


if __name__ == "__main__":
    run(main)
