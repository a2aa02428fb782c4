"""Plans as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forerun.errors import one_line
from forerun.planner.one_rank import PROMPT, RankRun
from forerun.planner.plan import Plan
from forerun.planner.speed import Speed
from forerun.planner.step_time import StepTime
from forerun.planner.sweep import Point

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH = 118


def show(plan: Plan) -> None:
    """Memory, compile plan, speed."""
    console, config = _console(), plan.subject.config
    ranks = "1 rank" if config.tp_degree == 1 else f"{config.tp_degree} ranks"
    sequences = _sequences(config.max_seqs)
    name = one_line(plan.subject.name)
    console.print(f"{name} on {plan.machine.name}: {ranks}, {sequences} of {config.max_length} tokens")
    console.print(_memory(plan))
    console.print(_compile(plan))
    traffic = plan.traffic
    cached = traffic.cached(config.pa_block_size)
    hits = f", {cached} of them cached with a prefix hit" if cached else ""
    console.print(f"\nSpeed: prompts of {traffic.input} tokens{hits}, answers of {traffic.output}")
    console.print(_speeds(plan))
    for line in _remarks(plan):
        console.print(line)


def show_sweep(swept: Sequence[tuple[Point, Plan]]) -> None:
    """A line for each plan."""
    console, table = _console(), _table(*swept[0][0], "weights/rank", "KV/token", "blocks", "fits")
    for title in ("TTFT ms", "TPOT ms", "bound", "tokens/s", "at TPOT ms"):
        table.add_column(title, justify="right")
    for point, plan in swept:
        first, best = _first(plan), plan.fastest
        table.add_row(
            *(f"{value:g}" for value in point.values()),
            _bytes(plan.rank.weight_bytes),
            _bytes(plan.rank.kv.token_bytes),
            str(plan.blocks),
            "yes" if plan.fits else "no",
            f"{first.ttft.seconds * 1e3:.1f}",
            f"{first.tpot * 1e3:.2f}",
            first.step.bound,
            f"{best.throughput:.1f}",
            f"{best.tpot * 1e3:.2f}",
        )
    console.print(f"{one_line(swept[0][1].subject.name)} on {swept[0][1].machine.name}")
    console.print(table)
    console.print("TTFT and TPOT of one sequence; tokens/s of the fastest way to run that was planned, and its TPOT")


def show_rank(run: RankRun) -> None:
    """Planned beside found."""
    console, table = _console(), _table(f"rank {run.rank} of {run.of}", "planned", "found", "planned / found")
    memory = "weights and KV cache"
    table.add_row(memory, *map(_bytes, run.memory), f"{run.memory[0] / max(run.memory[1], 1):.2f}")
    decode = f"a row behind {run.depth} tokens, ms"
    for name, (planned, found) in ((decode, run.decode), (f"{PROMPT} rows of a prompt, ms", run.prompt)):
        table.add_row(name, f"{planned * 1e3:.2f}", f"{found * 1e3:.2f}", f"{planned / found:.2f}")
    console.print(table)
    console.print(f"weights {_bytes(run.weights)}, KV cache {_bytes(run.kv)}; what other ranks send costs nothing here")


def _sequences(number: int, kind: str = "") -> str:
    return f"{number} {kind}sequence{'' if number == 1 else 's'}"


def _console() -> Console:
    from rich.console import Console

    return Console(width=_WIDTH, highlight=False, soft_wrap=True, markup=False)


def _table(*titles: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _rows() -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _memory(plan: Plan) -> Table:
    table, rank, member = _rows(), plan.rank, plan.member
    config, layout = plan.subject.config, rank.kv.layout
    heads = "1 KV head" if layout.kv_heads == 1 else f"{layout.kv_heads} KV heads"
    forms = ", ".join(f"{form} {_bytes(size)}" for form, size in rank.weights.items())
    of = f"rank {plan.placement.rank.ranks.begin} of {config.tp_degree}"
    table.add_row("")
    table.add_row("Memory", f"of {of}" if config.tp_degree > 1 else "")
    table.add_row("  weights", f"{_bytes(rank.weight_bytes)}: {forms}")
    table.add_row(
        "  KV cache", f"{_bytes(rank.kv.token_bytes)} a token ({heads}), {_bytes(rank.kv.block_bytes)} a block of "
        f"{config.pa_block_size} tokens"
    )  # fmt: skip
    sharing = len(range(plan.placement.group.ranks.begin, plan.placement.group.ranks.end))
    table.add_row("  room", f"{_bytes(plan.room)}" + (f" for {sharing} ranks together" if sharing > 1 else ""))
    table.add_row(
        "  blocks",
        f"minimum {member.full_batch_blocks} ({config.max_seqs} x {member.minimum_blocks} of a full sequence), "
        f"recommended {member.recommended_blocks}, {member.fitting_blocks(plan.room)} fit; pa_num_blocks "
        f"{plan.blocks} = {_sequences(plan.blocks // member.minimum_blocks, 'full ')}",
    )
    table.add_row("  fits", "yes" if plan.fits else "NO: weights and one sequence at least need more than there is")
    table.add_row("  largest model", f"{plan.largest / 1e9:.1f} billion parameters in these formats, with this cache")
    return table


def _compile(plan: Plan) -> Table:
    table = _rows()
    table.add_row("")
    programs = plan.programs()
    table.add_row("Compile plan", f"one program for {sum(programs.values())} buckets")
    for line in str(plan.subject.buckets).splitlines():
        name, _, buckets = line.partition(": ")
        table.add_row(f"  {name}", buckets)
    return table


def _speeds(plan: Plan) -> Table:
    table = _table("", "TTFT ms", "bound", "TPOT ms", "bound", "tokens/step", "tokens/s")
    for name, speed in plan.speeds.items():
        table.add_row(name, *_speed_cells(speed))
    for name, speed in plan.limits.items():
        table.add_row(f"  {name}: limit", *_speed_cells(speed))
    return table


def _speed_cells(speed: Speed) -> tuple[str, ...]:
    return (
        f"{speed.ttft.seconds * 1e3:.1f}",
        speed.ttft.bound,
        f"{speed.tpot * 1e3:.2f}",
        speed.step.bound,
        f"{speed.tokens:.2f}",
        f"{speed.throughput:.1f}",
    )


def _remarks(plan: Plan) -> list[str]:
    first = _first(plan)
    lines = [f"A step of one sequence: {_parts(first.step)}; its prompt: {_parts(first.ttft)}"]
    if plan.draft is not None:
        best = "no drafts are" if plan.best == 1 else f"{plan.best} tokens a step are"
        lines.append(
            f"Drafts: {plan.draft.length} tokens a step, drafted ones and one, each right with probability "
            f"{plan.traffic.acceptance:g}; {best} fastest at that"
        )
    if plan.limits:
        lines.append("limit: without the overhead of instructions")
    lines += [line for line in (plan.machine.note, plan.machine.source and f"Machine: {plan.machine.source}") if line]
    return lines


def _first(plan: Plan) -> Speed:
    return next(iter(plan.speeds.values()))


def _parts(step: StepTime) -> str:
    found = [f"{name} {value * 1e3:.2f} ms" for name, value in vars(step).items() if value]
    return ", ".join(found)


def _bytes(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} B"
