"""Properties under their old and new names, and what is advised."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from vmfence.cluster import properties
from vmfence.cluster.advice import advice
from vmfence.cluster.cib import Cib, Device, Node
from vmfence.cluster.properties import Effective
from vmfence.errors import UsageError

OLD, NEW = (2, 1, 5), (3, 0, 2)
NONE: Mapping[str, str] = {}


def cib(nodes: int = 2, options: Mapping[str, str] = NONE, **values: str) -> Cib:
    return cib_of({name.replace("_", "-"): value for name, value in values.items()}, nodes, options)


def cib_of(named: Mapping[str, str], nodes: int = 2, options: Mapping[str, str] = NONE) -> Cib:
    members = tuple(Node(f"n{number}", str(number)) for number in range(nodes))
    devices = (Device("d", "fence_xvm", options, {}, ()),)
    return Cib((*members, Node("far", "far", True)), devices, (), named, {}, (), frozenset())


def advised(name: str, version: tuple[int, ...], where: Cib) -> str:
    return "; ".join(advice(properties.find(name), where, version))


@pytest.mark.parametrize(
    ("version", "values", "found"),
    [
        (OLD, {}, Effective("true", False, "stonith-enabled")),
        (NEW, {}, Effective("true", False, "fencing-enabled")),
        (OLD, {"stonith-enabled": "no"}, Effective("no", True, "stonith-enabled")),
        (NEW, {"stonith-enabled": "no"}, Effective("no", True, "stonith-enabled")),
        (NEW, {"stonith-enabled": "no", "fencing-enabled": "yes"}, Effective("yes", True, "fencing-enabled")),
        (OLD, {"fencing-enabled": "no"}, Effective("true", False, "stonith-enabled")),
        ((3, 0, 1), {"fencing-enabled": "no"}, Effective("true", False, "stonith-enabled")),
    ],
)
def test_old_and_new_names(version: tuple[int, ...], values: dict[str, str], found: Effective) -> None:
    for name in ("stonith-enabled", "fencing-enabled"):
        assert properties.effective(cib_of(values), version, name) == found


def test_defaults_by_version() -> None:
    assert properties.default("concurrent-fencing", OLD) == "false"
    assert properties.default("concurrent-fencing", (3, 0, 0)) == "true"
    assert properties.default("stonith-timeout", NEW) == "60s"


def test_what_pacemaker_cannot_read_counts_as_the_default() -> None:
    assert properties.is_true(cib(stonith_enabled="perhaps"), OLD, "stonith-enabled")
    assert not properties.is_true(cib(stonith_enabled="off"), OLD, "stonith-enabled")
    assert properties.seconds(cib(stonith_timeout="soon"), OLD, "stonith-timeout") == 60
    assert properties.seconds(cib(stonith_timeout="2min"), OLD, "stonith-timeout") == 120


def test_the_name_to_write() -> None:
    assert properties.writable_name("fencing-timeout", OLD) == "stonith-timeout"
    assert properties.writable_name("stonith-timeout", NEW) == "fencing-timeout"
    listed = {"stonith-timeout", "stonith-enabled"}
    assert properties.writable_name("fencing-timeout", (2, 1, 9), listed) == "stonith-timeout"
    assert properties.writable_name("stonith-timeout", NEW, {*listed, "fencing-timeout"}) == "fencing-timeout"


@pytest.mark.parametrize(
    ("name", "version", "listed", "why"),
    [
        ("have-watchdog", OLD, None, "the cluster sets it itself"),
        ("node-pending-timeout", OLD, None, "it came with 2.1.7"),
        ("node-pending-timeout", (2, 1, 9), set(), "has no property"),
        ("batch-limit", OLD, None, "pcs property set"),
        ("", OLD, None, "is no property"),
    ],
)
def test_what_cannot_be_written(name: str, version: tuple[int, ...], listed: set[str] | None, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        properties.writable_name(name, version, listed)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("stonith-enabled", ("true", "OFF", ""), ("maybe", " ")),
        ("fencing-action", ("off", "reboot"), ("on", "poweroff")),
        ("stonith-timeout", ("90", "2min", "PT1M"), ("soon", "-1", "1; reboot")),
        ("stonith-max-attempts", ("1", "10"), ("0", "-1", "x", "99999999999")),
        ("stonith-watchdog-timeout", ("0", "10s", "-1"), ("--1", "x")),
        ("no-quorum-policy", ("stop", "fence"), ("panic",)),
    ],
)
def test_values(name: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    for value in good:
        properties.check_value(name, value)
    for value in bad:
        with pytest.raises(UsageError, match=f"{name} cannot be"):
            properties.check_value(name, value)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_cluster_that_is_set_up_well_gets_no_advice(version: tuple[int, ...]) -> None:
    for where in (cib(options={"pcmk_delay_base": "n1:5s"}), cib(3, concurrent_fencing="true")):
        assert [found for one in properties.PROPERTIES for found in advice(one, where, version)] == []


@pytest.mark.parametrize(
    ("values", "version", "words"),
    [
        ({"stonith-enabled": "false"}, OLD, "two halves of a split cluster"),
        ({"fencing-enabled": "false"}, OLD, "ignores it"),
        ({"fencing-enabled": "true", "stonith-enabled": "false"}, NEW, "take one of them away"),
        ({"stonith-enabled": "perhaps"}, OLD, "so its default holds"),
        ({"stonith-action": "off"}, OLD, "stays off"),
        ({"stonith-action": "poweroff"}, OLD, "old word for off"),
        ({"stonith-action": "poweroff"}, NEW, "does not understand 'poweroff'"),
        ({"stonith-timeout": "20s"}, OLD, "60s or more"),
        ({"stonith-watchdog-timeout": "10s"}, OLD, "no watchdog runs"),
        ({"stonith-watchdog-timeout": "-1"}, OLD, "no watchdog runs"),
        ({"startup-fencing": "false"}, OLD, "may be running all the same"),
        ({"no-quorum-policy": "ignore"}, OLD, "two_node"),
        ({"no-quorum-policy": "fence"}, OLD, "came with 2.1.9"),
        ({"no-quorum-policy": "suicide"}, NEW, "old word for fence"),
        ({"maintenance-mode": "true"}, OLD, "recovers nothing"),
        ({"fence-remote-without-quorum": "true"}, NEW, "must not fence"),
    ],
)
def test_advice(values: dict[str, str], version: tuple[int, ...], words: str) -> None:
    name = next(iter(values))
    assert words in advised(name, version, cib_of(values))


def test_advice_that_looks_at_the_cluster() -> None:
    assert "head start" in advised("priority-fencing-delay", OLD, cib())
    assert not advised("priority-fencing-delay", OLD, cib(3))
    assert not advised("priority-fencing-delay", OLD, cib(priority_fencing_delay="15s"))
    assert "one after another" in advised("concurrent-fencing", OLD, cib(3))
    assert not advised("concurrent-fencing", OLD, cib(2))
    assert not advised("stonith-watchdog-timeout", OLD, cib(stonith_watchdog_timeout="10s", have_watchdog="true"))
