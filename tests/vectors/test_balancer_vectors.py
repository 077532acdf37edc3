"""Known answers of other systems; where each comes from stands in balancing/README.md."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastpath import Backend, Balancer, OutlierDetection
from fastpath._balancer import (
    even_schedule,
    jump_hash,
    maglev_table,
    priority_loads,
    smooth_schedule,
    stride_weights,
)
from fastpath.balance import weight_from_load

HERE = Path(__file__).parent / "balancing"


def load(name: str) -> Any:
    return json.loads((HERE / name).read_text())


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open() as file:
        return list(csv.DictReader(file))


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split()]


def at(server: str, weight: float = 1) -> Backend:
    address, _, port = server.rpartition(":")
    return Backend(server, address.strip("[]"), int(port), weight)


@pytest.mark.parametrize("case", load("nginx_swrr.json")["cases"], ids=lambda case: str(case["weights"]))
@pytest.mark.parametrize("options", [{"seed": 0}, {"compat": "nginx"}], ids=str)
def test_nginx_smooth_weighted_round_robin(case: dict[str, Any], options: dict[str, Any]) -> None:
    balancer = Balancer(zip(case["names"], case["weights"], strict=True), **options)
    assert [balancer.pick().id for _ in case["picks"] * 3] == case["picks"] * 3
    credit = dict.fromkeys(case["names"], 0)
    for name, expected in zip(case["picks"], case["current_weight_after_pick"], strict=True):
        for other, weight in zip(case["names"], case["weights"], strict=True):
            credit[other] += weight
        credit[name] -= sum(case["weights"])
        assert list(credit.values()) == expected


@pytest.mark.parametrize("case", load("lvs_wrr.json")["cases"], ids=lambda case: str(case["weights"]))
def test_lvs_weighted_round_robin(case: dict[str, Any]) -> None:
    balancer = Balancer(zip(case["names"], case["weights"], strict=True), compat="lvs")
    assert [balancer.pick().id for _ in case["picks"] * 2] == case["picks"] * 2


def test_grpc_static_stride() -> None:
    vectors = load("grpc_static_stride.json")
    for case in vectors["counts"]:
        assert stride_weights(case["weights"]) == case["scaled_weights"]
    for weights in vectors["no_scheduler"]:
        assert stride_weights(weights) == []
    for case in [*vectors["sequences"], *vectors["counts"]]:
        # A weight of 0 means the mean there and draining here.
        weights = case["weights"] if 0 not in case["weights"] else stride_weights(case["weights"])
        balancer = Balancer([(str(i), weight) for i, weight in enumerate(weights)], compat="grpc")
        if "counts" in case:
            ids = balancer.pick_many(case["picks"])
            assert np.bincount(ids)[1:].tolist() == case["counts"]
        else:
            assert [int(balancer.pick().id) for _ in case["picks"]] == case["picks"]


def test_maglev_paper() -> None:
    vectors = load("maglev_paper.json")
    permutations = {int(name): walk for name, walk in vectors["permutations"].items()}
    for case in vectors["cases"]:
        walks = [permutations[b] for b in case["backends"]]
        offsets = [walk[0] for walk in walks]
        skips = [(walk[1] - walk[0]) % vectors["table_size"] for walk in walks]
        table = maglev_table(offsets, skips, [1.0] * len(walks), vectors["table_size"])
        assert [case["backends"][i] for i in table] == case["table"]


@pytest.mark.parametrize("case", load("envoy_maglev.json")["tables"], ids=lambda case: case["test"])
def test_envoy_maglev(case: dict[str, Any]) -> None:
    named = ":" not in case["host_keys"][0]
    made = [
        Backend(key, weight=weight) if named else at(key, weight)
        for key, weight in zip(case["host_keys"], case["effective_weights"], strict=True)
    ]
    balancer = Balancer(made, "maglev", compat="envoy", table_size=case["table_size"])
    table = [balancer.pick(slot).id for slot in range(case["table_size"])]
    assert table == [case["host_keys"][i] for i in case["table"]]
    entries = Counter(table).values()
    assert (min(entries), max(entries)) == (case["min_entries_per_host"], case["max_entries_per_host"])


def test_envoy_maglev_retries() -> None:
    vectors = load("envoy_maglev.json")
    basic = next(case for case in vectors["tables"] if case["test"] == vectors["retry"]["table"])
    keys = basic["host_keys"]
    balancer = Balancer([at(key) for key in keys], "maglev", compat="envoy", table_size=basic["table_size"])
    walk = [keys.index(backend.id) for backend in balancer.picks(vectors["retry"]["hash"])]
    assert walk[:3] == vectors["retry"]["host_by_attempt"]
    assert sorted(walk) == list(range(len(keys)))


def test_envoy_needs_a_prime() -> None:
    with pytest.raises(ValueError, match="prime number, got 8"):
        Balancer(["a"], "maglev", compat="envoy", table_size=8)


@pytest.mark.parametrize("case", load("envoy_ring_hash.json")["rings"], ids=lambda case: case["test"])
def test_envoy_ring_hash(case: dict[str, Any]) -> None:
    named = ":" not in case["host_keys"][0]
    made = [
        Backend(key, weight=weight) if named else at(key, weight)
        for key, weight in zip(case["host_keys"], case["weights"], strict=True)
    ]
    murmur = case["hash"].startswith("murmur")
    balancer = Balancer(
        made,
        "ketama",
        compat="envoy",
        hash_function="murmur2" if murmur else "xxhash",
        min_ring_size=len(case["ring"]),
        max_ring_size=len(case["ring"]),
    )
    [(_, _, _, _, _, points, owners)] = balancer._tiers()
    assert [(str(point), balancer.values[id].id) for point, id in zip(points, owners, strict=True)] == [
        (entry["point"], case["host_keys"][entry["host"]]) for entry in case["ring"]
    ]
    for pick in case["picks"]:
        assert balancer.pick(int(pick["hash"])).id == case["host_keys"][pick["host"]]


def test_nginx_consistent_hash_trace() -> None:
    trace = load("pingora_nginx_chash.json")["trace"]
    balancer = Balancer([at(s, trace["weight"]) for s in trace["servers"]], "ketama", compat="nginx")
    with (HERE / trace["file"]).open() as file:
        lines = list(csv.reader(file))
    assert len(lines) == trace["rows"]
    assert [balancer.pick(uri).id for uri, _ in lines] == [server for _, server in lines]
    ids = balancer.pick_many([uri for uri, _ in lines])
    assert [balancer.values[id].id for id in ids] == [server for _, server in lines]


def test_nginx_consistent_hash_picks_and_failover() -> None:
    vectors = load("pingora_nginx_chash.json")
    for case in vectors["picks"]:
        balancer = Balancer([at(s, case["weight"]) for s in case["servers"]], "ketama", compat="nginx")
        assert balancer.pick(case["key"]).id == case["server"]
    for case in vectors["failover"]:
        balancer = Balancer([at(s, case["weight"]) for s in case["servers"]], "ketama", compat="nginx")
        assert [b.id for b in balancer.picks(case["key"])] == list(dict.fromkeys(case["walk"]))


def test_libmemcached_weighted_ketama() -> None:
    vectors = load("libmemcached_ketama.json")
    servers = [Backend(s["host"], s["host"], 11211, s["weight"]) for s in vectors["servers"]]
    balancer = Balancer(servers, "ketama", compat="libmemcached")
    [(_, _, _, _, _, points, owners)] = balancer._tiers()
    assert len(points) == vectors["ring_points"]
    count = Counter(balancer.values[id].id for id in owners)
    assert count == {server["host"]: server["points"] for server in vectors["servers"]}
    for row in [*vectors["rows"], vectors["wrap"]]:
        assert balancer.pick(row["key"]).id == row["server"], row
        assert balancer.pick(row["hash"]).id == row["server"], row


@pytest.mark.parametrize("name", ["guava_jump_hash.csv", "lithammer_jump_hash.csv"])
def test_jump(name: str) -> None:
    for row in rows(name):
        key, buckets, bucket = int(row["key"]), int(row["buckets"]), int(row["bucket"])
        assert jump_hash(key, buckets) == bucket
        if buckets <= 1000:
            balancer = Balancer([str(i) for i in range(buckets)], "jump")
            assert balancer.pick(key).id == str(bucket)


def test_murmur3_rendezvous() -> None:
    vectors = load("pymemcache_rendezvous.json")
    for case in vectors["picks"]:
        balancer = Balancer(case["nodes"], "rendezvous", compat="pymemcache")
        assert balancer.pick(case["key"]).id == case["node"]
        assert balancer.pick(case["key"].encode()).id == case["node"]
        assert balancer.values[balancer.pick_many([case["key"]])[0]].id == case["node"]
    for case in vectors["churn"]:
        keys = [str(i) for i in range(case["keys"])]
        held = []
        for nodes in (case["nodes_before"], case["nodes_after"]):
            balancer = Balancer([str(i) for i in range(nodes)], "rendezvous", compat="pymemcache")
            held.append({(balancer.pick(key).id, key) for key in keys})
        assert len(held[0] ^ held[1]) == case["added_plus_removed"]


def test_cilium_counts() -> None:
    [row] = rows("cilium_maglev_counts.csv")
    weights = numbers(row["weights"])
    balancer = Balancer(
        [(str(i), weight) for i, weight in enumerate(weights)], "maglev", table_size=int(row["table_size"])
    )
    ids = balancer.pick_many(np.arange(int(row["table_size"]), dtype=np.uint64))
    assert np.bincount(ids)[1:].tolist() == numbers(row["slots_per_backend"])


def test_envoy_priority_load() -> None:
    for row in rows("envoy_priority_load.csv"):
        healthy = numbers(row["healthy_percent"])
        loads = priority_loads(healthy, [100] * len(healthy), panic_threshold=0)
        assert [load for load, _ in loads] == numbers(row["load_percent"])
    # The code's integers, not the documentation's 36/36/28.
    assert [load for load, _ in priority_loads([25, 25, 20], [100] * 3, 1.4, 0)] == [37, 35, 28]


def test_envoy_slow_start() -> None:
    for row in rows("envoy_slow_start.csv"):
        now = [1000.0]
        weight = float(row["weight"])
        balancer = Balancer(
            [("old", 1e-6)],
            "least_request",
            seed=1,
            slow_start_s=int(row["window_ms"]) / 1000,
            slow_start_aggression=float(row["aggression"]),
            slow_start_min=int(row["min_weight_percent"]) / 100,
            clock=lambda now=now: now[0],
        )
        balancer.add(("new", weight))
        now[0] += int(row["elapsed_ms"]) / 1000
        assert balancer.status("new").effective_weight == pytest.approx(
            float(row["effective_weight"]), rel=1e-6
        )


def test_envoy_success_rate_outliers() -> None:
    for row in rows("envoy_outlier_success_rate.csv"):
        rates = [int(rate) for rate in row["success_rates"].split()]
        now = [0.0]
        outlier = OutlierDetection(
            consecutive_failures=0,
            stdev_factor=int(row["stdev_factor_thousandths"]) / 1000,
            failure_share=0,
            max_ejected=1.0,
            jitter_s=0,
        )
        balancer = Balancer(
            [str(i) for i in range(len(rates))], outlier=outlier, clock=lambda now=now: now[0]
        )
        for i, rate in enumerate(rates):
            for request in range(100):
                balancer.report(str(i), request < rate)
        now[0] = 11.0
        ejected = [rates[i] for i in range(len(rates)) if balancer.status(str(i)).ejected]
        expected = [] if row["ejected_rates"] == "-" else numbers(row["ejected_rates"])
        assert ejected == expected


def test_envoy_ejection_times() -> None:
    for row in rows("envoy_outlier_ejection_time.csv"):
        now = [0.0]
        outlier = OutlierDetection(
            consecutive_failures=1,
            interval_s=1e6,
            base_ejection_s=int(row["base_ms"]) / 1000,
            max_ejection_s=int(row["max_ms"]) / 1000,
            jitter_s=0,
        )
        balancer = Balancer(["a", "b"], outlier=outlier, clock=lambda now=now: now[0])
        for _ in range(int(row["ejection_count"])):
            now[0] += 1000.0
            assert not balancer.status("a").ejected
            balancer.report("a", False)
            began = now[0]
        now[0] = began + int(row["ejection_ms"]) / 1000 - 0.001
        assert balancer.status("a").ejected
        now[0] = began + int(row["ejection_ms"]) / 1000
        assert not balancer.status("a").ejected


def test_grpc_weights_from_load_reports() -> None:
    for row in rows("grpc_wrr_weight.csv"):
        weight = weight_from_load(
            float(row["qps"]), float(row["utilization"]), float(row["eps"]), float(row["error_penalty"])
        )
        assert math.isclose(weight, float(row["weight"]), rel_tol=1e-12)


def test_schedules_agree_where_nginx_is_even_enough() -> None:
    for weights in ([5, 1, 1], [4, 3, 2], [10] + [1] * 9):
        for schedule in (smooth_schedule(weights), even_schedule(weights)):
            assert Counter(schedule) == dict(enumerate(weights))
