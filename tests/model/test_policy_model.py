"""Policy against its twin, one random history of edits and packets after the other, with each kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastpath import Policy, Rule
from fastpath.reference import policy as reference

SETTINGS = settings(max_examples=30, stateful_step_count=30, deadline=None)
NETS = {
    4: ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/15", "10.1.0.0/16", "10.1.2.0/23", "10.1.3.0/32"],
    6: ["::/0", "2001:db8::/31", "2001:db8::/64", "2001:db8::/65", "2001:db8::ff00/120"],
}
HOSTS = {
    4: [0, 0x0A000000, 0x0A010203, 0x0A010300, 0x0A02FFFF, 0xFFFFFFFF],
    6: [0, 0x20010DB8 << 96, (0x20010DB8 << 96) + 0xFF01, (0x20010DB8 << 96) + (1 << 63), 2**128 - 1],
}
PORTS = [(0, 65535), (0, 0), (80, 80), (80, 90), (85, 65535), (65535, 65535), (1024, 2047), (81, 1500)]
POINTS = [0, 79, 80, 81, 85, 90, 91, 1023, 1024, 1500, 2047, 2048, 65534, 65535]


@st.composite
def rules(draw: Any) -> Rule:
    nets = st.sampled_from([None, *NETS[draw(st.sampled_from([4, 4, 6]))]])
    ports = st.sampled_from(PORTS)
    protocol = draw(st.sampled_from([None, None, 0, 6, 17, 255]))
    action = draw(st.sampled_from(["allow", "deny"]))
    return Rule(action, draw(nets), draw(nets), protocol, draw(ports), draw(ports))


class PolicyMachine(RuleBasedStateMachine):
    @initialize(given=st.lists(rules(), max_size=60), default=st.sampled_from(["allow", "deny"]))
    def make(self, given: list[Rule], default: Any) -> None:
        self.policy = Policy(given, default)
        self.twin = reference.Policy(list(self.policy), default)

    @rule(new=rules(), data=st.data())
    def insert(self, new: Rule, data: st.DataObject) -> None:
        before = data.draw(st.sampled_from([None, *self.twin.ids()]))
        given = self.policy.insert(new, before=before)
        self.twin.insert(self.policy[given], before)

    @precondition(lambda self: self.twin.ids())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.twin.ids()))
        self.policy.delete(gone)
        self.twin.delete(gone)

    @rule(given=st.lists(rules(), max_size=80))
    def replace(self, given: list[Rule]) -> None:
        self.policy.replace(given)
        self.twin = reference.Policy(list(self.policy), self.policy.default)

    @rule()
    def compile(self) -> None:
        self.policy.compile()
        assert self.policy.compiled

    @rule()
    def shadowed(self) -> None:
        assert [each.id for each in self.policy.shadowed()] == self.twin.shadowed()

    @rule(missing=st.sampled_from(["nobody", -1, ()]))
    def errors(self, missing: Any) -> None:
        for call in (
            lambda: self.policy.delete(missing),
            lambda: self.policy.insert(Rule("allow"), before=missing),
            lambda: self.policy.hits(missing),
        ):
            with pytest.raises(KeyError):
                call()
        for taken in self.twin.ids()[:1]:
            for policy in (self.policy, self.twin):
                with pytest.raises(ValueError, match="taken"):
                    policy.insert(Rule("allow", id=taken))

    @rule(family=st.sampled_from([4, 6]), seed=st.integers(0, 2**32 - 1))
    def decide(self, family: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n = 40
        hosts = [rng.choice(len(HOSTS[family]), n) for _ in range(2)]
        values = [[HOSTS[family][i] for i in side] for side in hosts]
        protocols = rng.choice([0, 6, 17, 255], n).astype(np.uint8)
        ports = rng.choice(POINTS, (2, n)).astype(np.uint16)
        if family == 4:
            columns = [np.array(side, np.uint32) for side in values]
        else:
            packed = [b"".join(value.to_bytes(16, "big") for value in side) for side in values]
            columns = [np.frombuffer(side, np.uint8).reshape(n, 16) for side in packed]
        ids = self.policy.decide_many(*columns, protocols, *ports)
        names = self.policy.values
        allowed = self.policy.allowed(ids)
        width = 4 if family == 4 else 16
        for i in range(n):
            packet = [side[i].to_bytes(width, "big") for side in values]
            expected = self.twin.decide(*packet, int(protocols[i]), *ports[:, i].tolist())
            found = names[ids[i]]
            assert (None if found is None else found.id) == expected[1]
            assert ("allow" if allowed[i] else "deny") == expected[0]
        assert self.policy.decide(*packet, int(protocols[-1]), *ports[:, -1].tolist()) == expected
        self.twin.count(expected[1])
        explained = self.policy.explain(*packet, int(protocols[-1]), *ports[:, -1].tolist())
        assert explained.decision == expected
        tried = self.twin.explain(*packet, int(protocols[-1]), *ports[:, -1].tolist())
        assert [tuple(each) for each in explained.considered] == tried

    @invariant()
    def same_rules_and_hits(self) -> None:
        if hasattr(self, "twin"):
            assert [each.id for each in self.policy] == self.twin.ids()
            assert [self.policy.hits(each) for each in self.twin.ids()] == self.twin.hits()


PolicyMachine.TestCase.settings = SETTINGS
TestPolicy = PolicyMachine.TestCase


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_the_same_with_other_instruction_sets(isa: str) -> None:
    """FASTPATH_ISA is read once in a process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "TestPolicy"]
    ran = subprocess.run(
        command, env={**os.environ, "FASTPATH_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
