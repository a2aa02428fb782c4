"""Costs of steps: measured once for an artifact and a host, kept, bounded, and never trusted blindly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from forerun import _native
from forerun.measure import step_costs
from forerun.measure.kept import KEPT
from forerun.measure.step_costs import NEVER, TILE_ROWS, StepCosts, known_step_costs, measure_step_costs
from forerun.runtime.native import MOST_REPEAT_ROWS, NativeExecutor
from tests.support.native_models import native_executor
from tests.support.reference_models import one_sequence, tiny_model


@pytest.fixture
def executor() -> Iterator[NativeExecutor]:
    made = native_executor(
        tiny_model("llama", seed=1), "int8_f16", max_rows=24, max_seqs=3, max_model_len=64, threads=2
    )
    yield made
    made.close()


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def test_costs_lie_on_lines_between_what_was_measured() -> None:
    costs = StepCosts({1: 2.0, 4: 2.6, 8: 4.0}, repeat_rows=0)
    assert [costs.of(rows) for rows in (1, 4, 6, 8)] == pytest.approx([2.0, 2.6, 3.3, 4.0])
    assert costs.of(2) == pytest.approx(2.2) and costs.of(16) == pytest.approx(8.0)
    assert costs.ratio(4) == pytest.approx(1.3) and costs.ratio(1) == 1


def test_measuring_stays_within_the_executor_and_the_budget(executor: NativeExecutor) -> None:
    assert list(measure_step_costs(executor, budget=30).seconds) == [1, 2, 4, 8, 16]  # 32 rows are more than it takes
    short = measure_step_costs(executor, budget=-1)
    assert list(short.seconds) == [1] and short.repeat_rows <= 1


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{", "[]", '{"KEY": {"seconds": {"1": 1e999}, "repeat_rows": 1e999, "tile_rows": 32}}']
)
def test_a_damaged_record_is_measured_again(
    executor: NativeExecutor, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    file = tmp_path / "costs.json"
    costs = StepCosts({1: 0.5}, repeat_rows=0)
    monkeypatch.setattr(step_costs, "measure_step_costs", lambda executor, budget=0.0: costs)
    known_step_costs(executor, artifact, file)
    (key,) = json.loads(file.read_text())
    file.write_text(text.replace("KEY", key))
    assert known_step_costs(executor, artifact, file) == costs


def test_sharing_changes_no_bit(executor: NativeExecutor) -> None:
    batch = one_sequence(list(range(6)), table=[0], sampled=[5], want_logits=True)
    results = []
    for rows in (0, 5, 6, MOST_REPEAT_ROWS):
        executor.set_repeat_rows(rows)
        results.append(np.array(executor.step(batch).logits))  # the next step with this input overwrites it
    assert all(np.array_equal(results[0], other) for other in results[1:])
    for wrong in (-1, MOST_REPEAT_ROWS + 1):
        with pytest.raises(ValueError, match="repeat_rows"):
            executor.set_repeat_rows(wrong)


def test_tiles_change_no_bit_and_only_what_nobody_forced_is_chosen() -> None:
    model = tiny_model("llama", seed=1)
    batch = one_sequence(list(range(40)), table=[0, 1, 2], sampled=[39])
    results = []
    for isa in ("", _native.testable_isas()[-1]):
        executor = native_executor(model, "int8_f16", max_rows=64, max_model_len=64, isa=isa)
        for rows in (0, 32, NEVER):
            executor.set_tile_rows(rows)
            results.append(np.array(executor.step(batch).logits))
        assert executor.chooses_tiles == (isa == "" and "amx" in _native.usable_isas())
        chosen = measure_step_costs(executor, budget=30).tile_rows
        assert chosen in (NEVER, TILE_ROWS) and (executor.chooses_tiles or chosen == NEVER)
        with pytest.raises(ValueError, match="tile_rows"):
            executor.set_tile_rows(-1)
        executor.close()
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_one_measurement_serves_all_starts(executor: NativeExecutor, artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "costs.json"
    first = known_step_costs(executor, artifact, file, budget=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_costs, "measure_step_costs", lambda executor, budget: pytest.fail("measured again"))
        assert known_step_costs(executor, artifact, file) == first
    assert len(first.seconds) == 5
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_was_cut_off_is_tried_again(executor: NativeExecutor, artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    assert list(known_step_costs(executor, artifact, file, budget=-1).seconds) == [1]
    whole = known_step_costs(executor, artifact, file, budget=60)
    assert len(whole.seconds) == 5 and known_step_costs(executor, artifact, file, budget=-1) == whole


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"KEY": 3}',
                                    '{"KEY": {"seconds": {"2": 1}, "repeat_rows": 0, "tile_rows": 32}}',
                                    '{"KEY": {"seconds": {"1": -1}, "repeat_rows": 0, "tile_rows": 32}}',
                                    '{"KEY": {"seconds": {"1": 1}, "repeat_rows": 9, "tile_rows": 32}}',
                                    '{"KEY": {"seconds": {"1": 1}, "repeat_rows": 1, "tile_rows": 7}}',
                                    '{"KEY": {"seconds": {"1": 1}, "repeat_rows": 1}}',
                                    '{"KEY": {"seconds": {"a": 1}, "repeat_rows": 0, "tile_rows": 32}}'])  # fmt: skip
def test_a_damaged_file_is_measured_anew(executor: NativeExecutor, artifact: Path, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "costs.json"
    known_step_costs(executor, artifact, file)
    (key,) = json.loads(file.read_text())
    file.write_text(damage.replace("KEY", key))
    costs = known_step_costs(executor, artifact, file)
    assert json.loads(file.read_text())[key]["repeat_rows"] == costs.repeat_rows and 1 in costs.seconds


def test_a_file_is_bounded_and_a_folder_need_not_be_writable(
    executor: NativeExecutor, artifact: Path, tmp_path: Path
) -> None:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({str(number): {} for number in range(KEPT)}))
    known_step_costs(executor, artifact, file)
    names = list(json.loads(file.read_text()))
    assert len(names) == KEPT and names[0] == "1" and len(names[-1]) == 24
    (tmp_path / "taken").write_text("a file where the folder would be")
    assert known_step_costs(executor, artifact, tmp_path / "taken" / "costs.json").seconds
