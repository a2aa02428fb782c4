"""Drafts that the executor finds itself, within the step: asked for when it is built, read when it was run."""

from __future__ import annotations

from dataclasses import replace

from forerun.engine.drafts import DraftDesk
from forerun.engine.request import Request
from forerun.engine.scheduler import Scheduled
from forerun.runtime.step import Executor, StepInput, StepOutput


class InnerDrafts:
    """Between the desk, the arrays of a step and its plan, in which drafts stand open until the step was run."""

    def __init__(self, desk: DraftDesk) -> None:
        self._desk = desk

    def asked(self, plan: list[Scheduled], batch: StepInput) -> StepInput:
        """``batch`` with what its executor is to draft."""
        drafts = self._desk.in_step(_places(plan))
        return batch if drafts is None else replace(batch, drafts=drafts)

    def run(self, executor: Executor, plan: list[Scheduled], batch: StepInput) -> StepOutput:
        """Run the step. Where drafting failed it is run without: what stands in for drafts then is verified."""
        if batch.drafts is None:
            return executor.step(batch)
        try:
            output = executor.step(batch)
        except Exception as error:
            self._desk.failed([item.request for item in plan if item.draft], f"{type(error).__name__}: {error}")
            output = executor.step(replace(batch, drafts=None))
        row = 0
        for item in plan:
            row += item.rows
            if item.draft:
                item.draft = batch.token_ids[row - len(item.draft) : row].tolist()
        return output


def _places(plan: list[Scheduled]) -> dict[Request, int]:
    """The row of the first drafted token of each request that has one."""
    places, row = {}, 0
    for item in plan:
        row += item.rows
        if item.draft:
            places[item.request] = row - len(item.draft)
    return places
