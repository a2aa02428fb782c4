"""``forerun plan MODEL``: memory and speed on a machine that need not be here (docs/planning.md)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun.cli.demo.parser import add_flags
from forerun.cli.draft_flags import drafts_of_length
from forerun.cli.plan_flags import add_own_flags, given_flags, model_of, settings_of
from forerun.errors import ConfigError, ForerunError
from forerun.progress import base_name, progress, say
from forerun.whole_file import write_whole

if TYPE_CHECKING:
    from forerun.planner.machine import Machine
    from forerun.planner.plan import Draft, Plan
    from forerun.planner.subject import Subject
    from forerun.planner.sweep import Point
    from forerun.runtime.ranks import RankGroup

MEASURED = "machine.json"
"""Beside the cached artifacts: what this host does, by model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_own_flags(parser)
    add_flags(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """Plan, and print the table, the JSON or both."""
    from forerun.cli import plan_table

    if args.plot and not args.sweep:
        raise ConfigError("--plot draws a sweep: give --sweep NAME=VALUES too")
    if args.run_rank is not None and args.sweep:
        raise ConfigError("--run-rank runs one rank: leave --sweep out")
    if args.run_rank is not None:
        return _run_rank(args)
    planner = _Planner(args)
    if not args.sweep:
        plan = planner.plan({})
        _output(args, plan.to_json(), partial(plan_table.show, plan))
        return 0
    from forerun.planner.sweep import points

    swept = [(point, planner.plan(point)) for point in points(args.sweep)]
    _output(
        args, [{"point": dict(point), **plan.to_json()} for point, plan in swept], partial(plan_table.show_sweep, swept)
    )
    if args.plot:
        from forerun.planner.chart import draw

        draw(Path(args.plot), swept)
        say(f"{args.plot}: {len(swept)} plans")
    return 0


class _Planner:
    """Plans of one command line; machines are read or measured once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._model, self._defaults = model_of(args)
        self._settings = settings_of(args)
        self._machines: dict[str, Machine] = {}

    def plan(self, point: Point) -> Plan:
        """With the values of ``point`` in the place of what was given."""
        from forerun.planner.plan import make_plan
        from forerun.planner.traffic import traffic_for

        args, chosen = self._args, dict(point)
        whole = {name.replace("-", "_"): int(chosen[name]) for name in _SETTINGS if name in chosen}
        if "tp_degree" in whole:  # all of them here, unless somebody says otherwise for each degree
            whole = {
                "world_size": whole["tp_degree"],
                "local_ranks_size": whole["tp_degree"],
                "start_rank_id": 0,
            } | whole
        subject = self._open(self._model, {**self._settings, **whole})
        traffic = traffic_for(
            subject.config,
            _whole(chosen.get("input-tokens", args.input_tokens)),
            _whole(chosen.get("output-tokens", args.output_tokens)),
            chosen.get("prefix-hit", args.prefix_hit),
            chosen.get("acceptance", args.acceptance),
        )
        machine = self._machine(subject)
        draft = self._draft(subject, _whole(chosen.get("speculation-length")))
        if draft is not None and given_flags(args).get("--enable-fused-speculation"):
            from forerun.planner.subject import fused

            subject = fused(subject)
        return make_plan(subject, machine, traffic, draft)

    def _open(self, model: str, settings: Mapping[str, Any]) -> Subject:
        from forerun.planner.subject import open_subject

        return open_subject(model, settings, self._defaults)

    def _draft(self, target: Subject, length: int | None) -> Draft | None:
        """The draft model with the target's formats and lengths."""
        from forerun.opening.cache import is_artifact
        from forerun.opening.draft import INHERITED
        from forerun.planner.plan import Draft

        given = given_flags(self._args)
        drafts = drafts_of_length(
            self._args.draft or given.get("--draft-model-path"), length or given.get("--speculation-length")
        )
        if drafts is None or drafts.model is None:
            return None
        kept = {name: self._settings[name] for name in INHERITED if name in self._settings}
        sizes = {"seq_len": target.config.max_length, "batch_size": target.config.max_seqs}
        subject = self._open(drafts.model, {} if is_artifact(drafts.model) else {**kept, **sizes})
        degree = given.get("--draft-model-tp-degree", target.config.tp_degree)
        if degree < 1:
            raise ConfigError(f"--draft-model-tp-degree {degree} must be at least 1")
        return Draft(subject, self._machine(subject), drafts.num_speculative_tokens + 1, degree)

    def _machine(self, subject: Subject) -> Machine:
        """The machine; this host as it runs this very model."""
        from forerun.planner.machine import THIS_HOST, read_machine
        from forerun.runtime.ranks import all_local

        name = self._args.machine
        if name == THIS_HOST:
            key = f"{subject.name} {subject.config.kv_cache_dtype}"
            if key not in self._machines:
                self._machines[key] = measured(subject, all_local())
            return self._machines[key]
        return self._machines.setdefault(name, self._machines.get(name) or read_machine(name))


_SETTINGS = ("tp-degree", "batch-size", "seq-len")


def measured(subject: Subject, group: RankGroup) -> Machine:
    """This host as it runs ``subject``, measured once and kept beside the cached artifacts."""
    from forerun.opening.cache import cache_folder
    from forerun.planner.this_host import this_host

    with progress(f"Measuring this host on {base_name(subject.name)}") as tell:
        file = cache_folder().parent / MEASURED
        return this_host(subject.program, group, subject.config.kv_cache_dtype, file, tell)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _run_rank(args: argparse.Namespace) -> int:
    from forerun.cli import plan_table
    from forerun.planner.one_rank import rank_group, run_rank
    from forerun.planner.subject import open_subject
    from forerun.planner.traffic import traffic_for

    model, defaults = model_of(args)
    subject = open_subject(model, settings_of(args), defaults)
    group = rank_group(subject, args.run_rank)
    depth = traffic_for(subject.config, args.input_tokens, args.output_tokens).input
    found = run_rank(subject, group, measured(subject, group), depth)
    _output(args, found.to_json(), partial(plan_table.show_rank, found))
    return 0


def _output(args: argparse.Namespace, values: Any, show: Any) -> None:
    """The table, and the JSON where it was asked for."""
    if args.json != "-":
        show()
    if args.json is None:
        return
    text = json.dumps(values, indent=2, default=list, allow_nan=False)
    if args.json == "-":
        print(text)
        return
    try:
        write_whole(Path(args.json), f"{text}\n".encode())
    except OSError as error:
        raise ForerunError(f"--json {args.json} cannot be written ({error.strerror})") from None
