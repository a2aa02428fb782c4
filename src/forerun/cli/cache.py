"""``forerun cache``: the artifacts that commands compiled for themselves, listed or cleared."""

from __future__ import annotations

import argparse
import json
import time

from forerun.errors import ConfigError, did_you_mean, one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", parser_class=type(parser))
    listing = kinds.add_parser("list", help="what is there (the same as without a word)", allow_abbrev=False)
    listing.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    clear = kinds.add_parser("clear", help="remove artifacts; the next use compiles them again", allow_abbrev=False)
    clear.add_argument("names", nargs="*", metavar="NAME", help="which, as the list calls them (default: all)")


def run(args: argparse.Namespace) -> int:
    """List or clear."""
    from forerun.opening.cache import cache_folder, cached, remove_cached, remove_left_overs

    found = cached()
    if args.kind == "clear":
        names = {entry.name for entry in found}
        if unknown := [name for name in args.names if name not in names]:
            raise ConfigError(f"no '{unknown[0]}' in {cache_folder()}{did_you_mean(unknown[0], names)}")
        gone = [entry for entry in found if not args.names or entry.name in args.names]
        for entry in gone:
            remove_cached(entry)
        remove_left_overs()
        print(f"{len(gone)} removed, {sum(entry.bytes for entry in gone) / 1e6:.1f} MB; running servers keep theirs")
        return 0
    if args.kind == "list" and args.json:
        rows = [{"name": e.name, "model": e.model, "bytes": e.bytes, "made": e.made, "note": e.note} for e in found]
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{cache_folder()}: {len(found)} artifacts, {sum(entry.bytes for entry in found) / 1e6:.1f} MB")
    for entry in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.made))
        print(
            one_line(
                f"  {entry.name}  {entry.bytes / 1e6:8.1f} MB  {made}  {entry.model}{entry.note and f' ({entry.note})'}"
            )
        )
    return 0
