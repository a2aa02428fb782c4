"""Restarts, shares of the machine, metrics of several as one, orders."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from forerun.host.cgroup import CgroupLimits
from forerun.host.machine import Host
from forerun.host.nodes import memory_nodes, share_cores, threads_of
from forerun.replicas.errand import answers_of
from forerun.replicas.exposition import labelled, merged
from forerun.replicas.places import Order, places
from forerun.replicas.restarts import Restarts

GIB = 1 << 30


def host(cores: int, siblings: int = 1, quota: float | None = None, memory: int | None = 8 * GIB) -> Host:
    groups = tuple(tuple(core + cores * thread for thread in range(siblings)) for core in range(cores))
    cpus = tuple(sorted(cpu for group in groups for cpu in group))
    return Host(cpus, groups, CgroupLimits(cpu_quota=quota), memory, memory, None, "")


def test_restarts_come_later_and_later_and_end() -> None:
    restarts = Restarts(most=4, window=100)
    assert [restarts.after_failure(now) for now in (0, 1, 2, 3, 4)] == [0, 1, 3, 7, None]
    assert restarts.after_failure(101) == 7 and restarts.count == 5  # the first one is forgotten
    assert Restarts(most=1).after_failure(0) == 0


def test_leaving_is_no_failure() -> None:
    restarts = Restarts(most=1)
    for _ in range(9):
        restarts.after_leave()
    assert restarts.after_failure(0) == 0 and restarts.count == 10 and restarts.after_failure(1) is None


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_shares_are_equal_and_complete(count: int, parts: int, groups: int) -> None:
    cores = host(count).cores
    nodes = [frozenset(range(node, count, groups)) for node in range(groups)]  # interleaved, as some machines count
    shares = share_cores(cores, nodes, parts)
    assert len(shares) == parts and all(shares)
    if parts <= count:
        assert sorted(core for share in shares for core in share) == sorted(cores)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    on_two = [share for share in shares if len({core[0] % groups for core in share}) > 1]
    assert len(on_two) < groups or parts < groups


def test_one_replica_to_a_memory_node() -> None:
    nodes = [frozenset((0, 1, 2, 3)), frozenset((4, 5, 6, 7))]
    assert share_cores(host(4, siblings=2).cores, [frozenset((0, 1, 4, 5)), frozenset((2, 3, 6, 7))], 2) == [
        ((0, 4), (1, 5)),
        ((2, 6), (3, 7)),
    ]
    assert [len(share) for share in share_cores(host(8).cores, nodes, 3)] == [2, 3, 3]
    assert share_cores(host(2).cores, [], 3) == [((0,),), ((1,),), ((0,),)]
    with pytest.raises(ValueError, match="0 cores"):
        share_cores((), [], 1)


def test_nodes_are_read_from_the_kernel(tmp_path: Path) -> None:
    assert memory_nodes(tmp_path) == ()
    for node, cpus in ((0, "0-3,8-11"), (2, "4-7"), (3, "")):
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n")
    (tmp_path / "sys/devices/system/node/online").write_text("0,2-3\n")
    assert memory_nodes(tmp_path) == (frozenset((0, 1, 2, 3, 8, 9, 10, 11)), frozenset((4, 5, 6, 7)))


def test_threads_keep_to_the_quota() -> None:
    cores = host(8).cores
    assert threads_of(host(8), cores[:4], 2) == 4
    assert threads_of(host(8, quota=6.5), cores[:4], 2) == 3
    assert threads_of(host(8, quota=0.5), cores[:4], 2) == 1


def test_places_share_cores_and_memory(tmp_path: Path) -> None:
    found = places(2, host(4, siblings=2), [], tmp_path, Path("/artifact"))
    assert [place.cpus for place in found] == [(0, 1, 4, 5), (2, 3, 6, 7)]
    assert {place.memory for place in found} == {4 * GIB} and {place.threads for place in found} == {2}
    assert len({place.uds for place in found}) == 2 and {place.artifact for place in found} == {"/artifact"}
    assert places(2, host(2, memory=None), [], tmp_path)[0].memory == 0
    for place in found:
        order = Order(("--port", "1", "ä"), place)
        assert Order.parse(order.line()) == order and order.line().count(b"\n") == 1


def exposition(value: int) -> str:
    registry = CollectorRegistry()
    Counter("a:b", 'Help with "quotes" and {braces}.', ["name"], registry=registry).labels('x"} 1\n').inc(value)
    Gauge("plain", "No labels.", registry=registry).set(value)
    Histogram("h", "Times.", buckets=(1, 2), registry=registry).observe(value)
    return generate_latest(registry).decode()


def test_metrics_of_several_are_one_exposition() -> None:
    text = merged(labelled(exposition(number), f'replica="{number}"') for number in (1, 2))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# TYPE")
    for name in ("a:b", "plain", "h"):
        single = next(family for family in text_string_to_metric_families(exposition(1)) if family.name == name)
        assert (families[name].type, families[name].documentation) == (single.type, single.documentation)
    samples = {(sample.name, sample.labels["replica"]): sample for sample in families["a:b"].samples}
    assert {key: sample.value for key, sample in samples.items() if key[0] == "a:b_total"} == {
        ("a:b_total", "1"): 1,
        ("a:b_total", "2"): 2,
    }
    assert samples["a:b_total", "2"].labels["name"] == 'x"} 1\n'
    assert [sample.value for sample in families["plain"].samples] == [1, 2]


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({}, 1),
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1], [2]]}, 2),
        ({"messages": [{"role": "user"}], "n": None}, 1),
        ({"messages": [[{"role": "user"}], [{"role": "user"}]]}, 2),
        ({"n": "many"}, 1),
        ({"n": -1}, 1),
        ({"n": 10**9}, 1024),
    ],
)
def test_answers_that_a_request_wants(asked: dict[str, object], count: int) -> None:
    assert answers_of(asked) == count
