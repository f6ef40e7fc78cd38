"""A pool of ours and of real fence_virtd, in both of its modes and with either as the highest node: each forwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import pool
from lab.ours import CommandLine
from lab.pool import PoolHost, PoolLab

pytestmark = pytest.mark.system
OK, FAILED, OFF = 0, 1, 2
MIXES = {
    "reference is highest": ("vmfence", "fence_virtd"),
    "ours is highest": ("fence_virtd", "vmfence"),
    "reference knows UUIDs": ("vmfence", "fence_virtd:uuid"),
    "two and one": ("vmfence", "fence_virtd", "vmfence"),
}


@pytest.fixture(scope="module", params=list(MIXES), ids=lambda name: name.replace(" ", "-"))
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine
) -> Iterator[PoolLab]:
    """Guest gN runs at host N; the reference has a second one, offN, that is off."""
    if missing := pool.missing():
        pytest.skip(f"needs {', '.join(missing)}")

    def furnish(host: PoolHost) -> None:
        host.hypervisor.define(f"g{host.number}", uuid(host.number), start=True)
        host.hypervisor.define(f"off{host.number}")

    with PoolLab(vmfence, tmp_path_factory.mktemp("pool"), MIXES[request.param], furnish) as made:
        yield made


def uuid(number: int) -> str:
    return f"11111111-2222-4333-8444-00000000000{number}"


def ours(lab: PoolLab) -> int:
    return next(number for number, host in lab.hosts.items() if host.program == "vmfence")


def theirs(lab: PoolLab) -> int:
    return next(number for number, host in lab.hosts.items() if host.program != "vmfence")


def ask(lab: PoolLab, by: int, action: str, guest: str) -> int:
    return lab[by].ask("-o", action, "-H", guest).exit


def test_ours_reaches_a_guest_of_the_reference(lab: PoolLab) -> None:
    by, at = ours(lab), theirs(lab)
    guest = f"g{at}"
    lab.wait_known(guest, at, by)
    assert ask(lab, by, "status", uuid(at)) == OK
    before = lab[at].hypervisor.domain_id(guest)
    assert ask(lab, by, "reboot", guest) == OK
    assert lab[at].hypervisor.domain_id(guest) not in (-1, before)
    assert ask(lab, by, "off", guest) == OK
    assert lab.truth(guest) == []
    assert ask(lab, by, "status", guest) == OFF
    assert ask(lab, by, "on", guest) == OK
    assert lab.truth(guest) == [at]


def test_the_reference_reaches_a_guest_of_ours(lab: PoolLab) -> None:
    """By the kind of name that its mode knows; the other kind it calls off itself where it is the highest (D7)."""
    by, at = theirs(lab), ours(lab)
    name = uuid(at) if lab[by].mode == "uuid" else f"g{at}"
    assert ask(lab, by, "status", name) == OK
    before = lab[at].hypervisor.domain_id(f"g{at}")
    assert ask(lab, by, "reboot", name) == OK
    assert lab[at].hypervisor.domain_id(f"g{at}") not in (-1, before)
    assert ask(lab, by, "off", name) == OK
    assert lab.truth(f"g{at}") == []
    assert ask(lab, by, "status", name) == OFF
    assert ask(lab, by, "on", name) == OK
    assert lab.truth(f"g{at}") == [at]


def test_ours_answers_by_either_name_where_it_is_highest(lab: PoolLab) -> None:
    if max(lab.hosts) == ours(lab):
        for name in (f"g{ours(lab)}", uuid(ours(lab))):
            assert ask(lab, theirs(lab), "status", name) == OK


def test_what_nobody_knows_is_failure_for_ours_whoever_is_highest(lab: PoolLab) -> None:
    for action in ("status", "off", "reboot", "on"):
        assert ask(lab, ours(lab), action, "nobody") == FAILED


def test_ours_answers_for_the_group_when_it_is_highest(lab: PoolLab) -> None:
    """Else the reference waits for ever; where that itself is highest it calls unknown guests off (D5)."""
    if max(lab.hosts) == ours(lab) or len(lab.hosts) == 3:
        assert ask(lab, theirs(lab), "status", "nobody") == FAILED
        assert ask(lab, theirs(lab), "off", "nobody") == FAILED


def test_a_guest_of_the_reference_that_is_off(lab: PoolLab) -> None:
    assert ask(lab, ours(lab), "status", f"off{theirs(lab)}") == OFF
    assert ask(lab, ours(lab), "off", f"off{theirs(lab)}") == OK


def test_the_list_has_both(lab: PoolLab) -> None:
    listed = {line.split()[0] for line in lab[ours(lab)].ask("-o", "list").stdout.splitlines()}
    assert listed == {f"{kind}{number}" for number in lab.hosts for kind in ("g", "off")}


def test_a_reference_that_stops_leaves_no_guest_off(lab: PoolLab) -> None:
    """The last test of a mix: the daemon is not started again."""
    at, by = theirs(lab), ours(lab)
    lab[at].daemon.stop()
    lab.wait_together(*(number for number in lab.hosts if number != at))
    assert lab.truth(f"g{at}") == [at]
    assert ask(lab, by, "status", f"g{at}") == FAILED
    assert ask(lab, by, "off", f"g{at}") == FAILED
