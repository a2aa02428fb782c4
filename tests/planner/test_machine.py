"""Descriptions of machines: those that come with the package, a user's, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forerun.errors import ConfigError
from forerun.planner.machine import built_in, machine_from, machine_values, read_machine


def rounded(values: Any) -> Any:
    """Values with nine digits."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    return float(f"{values:.9g}") if isinstance(values, float) else values


SMALL: dict[str, Any] = {"memory_gb": 8, "bandwidth_gb_per_s": 20, "gops": 500}


@pytest.mark.parametrize("name", built_in())
def test_what_comes_with_the_package_can_be_written_and_read_again(name: str, tmp_path: Path) -> None:
    machine = read_machine(name)
    assert machine.memory > 1e9 and machine.source
    file = tmp_path / "same.json"
    file.write_text(json.dumps(machine_values(machine)))
    assert rounded(machine_values(read_machine(str(file)))) == rounded(machine_values(machine))


def test_the_accelerators_by_their_data_sheets() -> None:
    trn2, trn1 = read_machine("trn2.48xlarge"), read_machine("trn1.32xlarge")
    assert (trn2.units, trn1.units) == (64, 32)
    assert trn2.memory == pytest.approx(16 * 96 * 2**30, rel=1e-3)
    assert trn1.memory == pytest.approx(16 * 32 * 2**30, rel=1e-3)
    assert trn2.bytes_per_second() == pytest.approx(16 * 2.9e12)
    assert trn2.operations_of("bfloat16").at(1) == pytest.approx(16 * 667e12 * 0.36, rel=1e-3)


def test_a_file_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "# a desk\nname: Desk\nmemory_gb: 32\nbandwidth_gb_per_s: {default: 40, int8_f16: 30}\n"
        "gops: {default: 300, int: {1: 400, 8: 900}}\nlink: {latency_us: 20, gb_per_s: 1.25}\n"
    )
    machine = read_machine(str(file))
    assert (machine.name, machine.units, machine.memory) == ("Desk", 1, 32e9)
    assert machine.bytes_per_second("int8_f16") == 30e9 and machine.bytes_per_second("int4_f16") == 40e9
    assert machine.operations_of("int4_f16").at(8) == 900e9 and machine.operations_of("float32").at(8) == 300e9
    assert machine.link is not None and machine.link.latency == pytest.approx(2e-5) and machine.link.cut == "panels"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"memory_gb": 0}, "'memory_gb' must be a number from 1e-09 to 1e+30"),
        ({"memory_gb": True}, "'memory_gb' must be a number from 1e-09 to 1e+30"),
        ({"memory_gb": float("nan")}, "'memory_gb' must be a number from 1e-09 to 1e+30"),
        ({"memory_gb": 10**400}, "'memory_gb' must be a number from 1e-09 to 1e+30"),
        ({"memory_gb": 1e-320}, "'memory_gb' must be a number from 1e-09 to 1e+30"),
        ({"memory_gb": "much"}, "'memory_gb' must be a number from 1e-09 to 1e+30"),
        ({"gops": None}, "'gops' must be a number from 1e-09 to 1e+30"),
        ({"gops": {"int": 4}}, "gops has no 'default'"),
        ({"gops": {"default": {}}}, "'gops' has no speed"),
        ({"gops": {"default": {"many": 4}}}, "'many' is no number of rows"),
        ({"gops": {"default": {0: 4}}}, "0 is no number of rows"),
        ({"bandwidth_gb_per_s": {"int8_f16": 4}}, "bandwidth_gb_per_s has no 'default'"),
        ({"memory": 8}, "unknown field 'memory' (did you mean 'memory_gb'?)"),
        ({"units": 0}, "'units' must be a whole number within"),
        ({"padded": "yes"}, "'padded' must be true or false"),
        ({"name": 4}, "'name' must be a text"),
        ({"link": {"gb_per_s": 4}}, "link: 'latency_us' is missing"),
        ({"link": {"gb_per_s": 4, "latency_us": 1, "cut": "rows"}}, "cut is panels or heads"),
        ({"link": 3}, "link: an object of fields was expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        machine_from(SMALL | change, "desk.yaml")
    assert said in str(refused.value) and "desk.yaml" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.yaml", "a: [", "not valid YAML"),
        ("a.yaml", "a: &x [1]\nb: *x", "names, numbers and texts alone"),
        ("a.yaml", "memory_gb: !!int ''", "names, numbers and texts alone"),
        ("a.yaml", "[" * 3000, "names, numbers and texts alone"),
        ("a.yaml", "units: 1\nunits: 2", "'units' stands there twice"),
        ("a.yaml", f"gops:\n  ? 0x{'f' * 5000}\n  : 1", "is too long"),
        ("a.yaml", f"memory_gb: 0x{'f' * 5000}\nbandwidth_gb_per_s: 1\ngops: 1", "'memory_gb' must be a number from"),
        ("a.yaml", "- 1", "an object of fields was expected"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "names, numbers and texts alone"),
        ("a.yaml", "#" * (2 << 20), "has more than"),
        ("a.txt", "", "no machine is called"),
        ("gone.yaml", None, "cannot be read"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as refused:
        read_machine(str(tmp_path / name))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_numbers_as_yaml_has_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("memory_gb: 1e3\nbandwidth_gb_per_s: 2.5\ngops: 0x10\n")  # the first is a text
    machine = read_machine(str(tmp_path / "a.yaml"))
    assert machine.memory == 1e12 and machine.bytes_per_second() == 2.5e9


@pytest.mark.parametrize(("name", "meant"), [("trn2.48xl", "trn2.48xlarge"), ("EPYC-9654", "epyc-9654")])
def test_a_near_name_is_suggested(name: str, meant: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_machine(name)
    assert f"did you mean '{meant}'" in str(refused.value)
    assert all(known in str(refused.value) for known in built_in())


def test_the_page_names_all_that_come_with_the_package() -> None:
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in built_in())
