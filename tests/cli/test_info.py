"""``forerun info``: the table, the JSON, and the choice of an instruction set."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest

from forerun.cli import info
from forerun.compiler.opset import spec_of
from forerun.errors import ConfigError
from forerun.host.cgroup import CgroupLimits
from forerun.host.machine import Host
from forerun.host.memory import Bandwidth

GB = 1 << 30
HOST = Host(
    cpus=(0, 1, 2, 4, 5, 6),
    cores=((0, 4), (1, 5), (2, 6)),
    cgroup=CgroupLimits(cpu_quota=1.5, memory_limit=4 * GB, memory_available=3 * GB, cpus=frozenset(range(8))),
    memory_total=16 * GB,
    memory_available=3 * GB,
    huge_pages="madvise",
    cpu_model="A Fast One",
)
ISAS = ("portable", "avx2", "avx512")


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    info.add_arguments(parser)
    return parser.parse_args(argv)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "read_host", lambda: HOST)
    monkeypatch.setattr(info, "usable_isas", lambda: ISAS)
    monkeypatch.setattr(info, "native_read", lambda: lambda threads, megabytes: 12.345)
    monkeypatch.setattr(info, "versions", lambda: {"python": "3.12.1", "forerun": "0.1.0"})


@pytest.mark.usefixtures("machine")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.run(parse("--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["isa"]["usable"] == list(ISAS) and facts["isa"]["chosen"] == "avx512"
    assert facts["isa"]["operators"]["linear"] == "avx512"
    assert facts["cores"]["physical"] == 3 and facts["cores"]["default_threads"] == 1
    assert facts["cores"]["pinned_to"] == [0]
    assert facts["cgroup"] == {"cpu_quota": 1.5, "cpus": list(range(8)), "memory_limit": 4 * GB}
    assert facts["bandwidth"] == {"gigabytes_per_second": 12.35, "threads": 1, "method": "native"}
    assert facts["versions"]["forerun"] == "0.1.0"


@pytest.mark.usefixtures("machine")
def test_table_is_aligned_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.run(parse()) == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(line.rstrip() for line in lines)
    for part in (
        "A Fast One",
        "portable, avx2, avx512",
        "3 physical, 6 logical in the affinity mask",
        "0-2,4-6",
        "1, pinned to 0",
        "1.50 CPUs",
        "4.00 GiB",
        "3.00 GiB available of 16.00 GiB",
        "madvise",
        "12.3 GB/s (1 thread, native)",
        "3.12.1",
    ):
        assert part in text
    columns = {line.index(value) for line, value in zip(lines, ("A Fast One", "portable"), strict=False)}
    assert len(columns) == 1


@pytest.mark.usefixtures("machine")
def test_a_lower_instruction_set_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.run(parse("--json", "--isa", "avx2", "--skip-bandwidth")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["isa"]["chosen"] == "avx2" and set(facts["isa"]["operators"].values()) == {"avx2"}
    assert facts["bandwidth"] is None
    with pytest.raises(ConfigError, match=r"--isa avx51 cannot be used here .did you mean 'avx512'"):
        info.run(parse("--isa", "avx51"))


def test_without_the_native_core() -> None:
    facts = info.describe(HOST, (), info.chosen_isa("", ()), None, {})
    assert facts["isa"] == {"usable": [], "chosen": None, "operators": {}}
    assert ("ISAs usable", info.NOT_BUILT) in info.rows(facts)


def test_unknown_values_are_said_to_be_unknown() -> None:
    bare = replace(HOST, cgroup=CgroupLimits(), memory_total=None, memory_available=None, huge_pages=None, cpu_model="")
    lines = dict(info.rows(info.describe(bare, ISAS, "avx2", Bandwidth(3.0, 2, "numpy"), {})))
    assert lines["CPU"] == "unknown" and lines["memory"] == "unknown available of unknown"
    assert lines["cgroup CPU quota"] == lines["cgroup CPU set"] == lines["cgroup memory limit"] == "none"
    assert lines["transparent huge pages"] == "not offered"
    assert lines["memory read speed"] == "3.0 GB/s (2 threads, numpy)"


@pytest.mark.parametrize(("cpus", "text"), [([], "none"), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8")])
def test_cpu_lists(cpus: list[int], text: str) -> None:
    assert info.cpu_list(cpus) == text


def test_operators_are_instructions_of_programs() -> None:
    for name in info.OPERATORS:
        spec = spec_of(name, 1)
        assert spec is not None and spec.final


def test_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.run(parse("--json", "--skip-bandwidth")) == 0
    assert json.loads(capsys.readouterr().out)["cores"]["default_threads"] >= 1
