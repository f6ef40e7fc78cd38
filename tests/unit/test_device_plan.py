"""The plan for a device: map, delays, timeouts, comparison with what is there, and the commands that follow."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from vmfence.cluster.cib import Cib, Device, Node, Operation
from vmfence.cluster.delays import Delay, head_start
from vmfence.cluster.device import Cluster, Plan, Spec, make_plan
from vmfence.cluster.matching import Pair
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.timeouts import add_up
from vmfence.errors import UsageError, VmfenceError
from vmfence.protocol.reply import Record

V1, V1_OLDEST, V20, V21, V3 = (1, 1, 23), (1, 1, 12), (2, 0, 5), (2, 1, 5), (3, 0, 2)
UUIDS = tuple(f"88000000-0000-4000-8000-{number:012d}" for number in range(9))


def cib(*devices: Device, nodes: tuple[str, ...] = ("n1", "n2"), **properties: str) -> Cib:
    return Cib(
        nodes=tuple(Node(name, str(number)) for number, name in enumerate(nodes, 1)),
        devices=devices,
        levels=(),
        properties={name.replace("_", "-"): value for name, value in properties.items()},
        bans={},
        resources=("web",),
        ids=frozenset({"web", *(device.id for device in devices)}),
    )


def device(name: str = "f", agent: str = "fence_vmfence", monitor: str = "30s", **options: str) -> Device:
    return Device(name, agent, options, {}, (Operation("monitor", "60s", monitor),))


def pairs(names: Mapping[str, str], given: str = "") -> tuple[list[Pair], list[Record]]:
    guests = [Record(name, UUIDS[number], 1) for number, name in enumerate(names.values())]
    return [Pair(node, guest, "", given) for node, guest in zip(names, guests)], guests


def planned(
    spec: Spec | None = None, found: Cib | None = None, names: Mapping[str, str] | None = None, version: tuple = V21
) -> Plan:
    found = cib() if found is None else found
    return make_plan(spec or Spec("f"), *pairs(names or {"n1": "a", "n2": "b"}), Cluster(found, version), Pcs((0, 11)))


def lines(plan: Plan) -> list[str]:
    return [" ".join(step.argv) for step in plan.steps]


# The whole


def test_new_device() -> None:
    assert lines(planned()) == [
        "pcs stonith create f fence_vmfence pcmk_host_map=n1:a;n2:b pcmk_delay_base=n1:10s "
        "op monitor interval=60s timeout=30s"
    ]


def test_new_device_for_fence_xvm() -> None:
    """fence_xvm gives up after 30 s, a monitor too: Pacemaker has to wait longer."""
    options = {"multicast_address": "225.0.0.9", "pcmk_delay_base": "n2:5s"}
    assert lines(planned(Spec("f", "fence_xvm", options, has_static_list=True))) == [
        "pcs stonith create f fence_xvm pcmk_host_map=n1:a;n2:b pcmk_host_list=n1,n2 pcmk_host_check=static-list "
        "multicast_address=225.0.0.9 pcmk_delay_base=n2:5s op monitor interval=60s timeout=45s"
    ]


def test_slow_agent_raises_the_timeouts_around_it() -> None:
    assert lines(planned(Spec("f", options={"timeout": "90", "delay": "5", "pcmk_off_timeout": "120"}))) == [
        "pcs property set stonith-timeout=120s",
        "pcs stonith create f fence_vmfence pcmk_host_map=n1:a;n2:b timeout=90 delay=5 pcmk_off_timeout=120 "
        "pcmk_reboot_timeout=105s pcmk_on_timeout=105s pcmk_delay_base=n1:10s op monitor interval=60s timeout=105s",
    ]


def test_property_by_its_name_in_that_pacemaker() -> None:
    assert (
        lines(planned(Spec("f", options={"timeout": "90"}), version=V3))[0] == "pcs property set fencing-timeout=100s"
    )
    found = cib(fencing_timeout="200s")
    assert len(planned(Spec("f", options={"timeout": "90"}), found, version=V3).steps) == 1


def test_fencing_disabled_is_told() -> None:
    assert any("fencing is disabled" in note for note in planned(found=cib(stonith_enabled="no")).notes)


# Comparison

WANTED = {"pcmk_host_map": "n1:a;n2:b", "pcmk_delay_base": "n1:10s"}


@pytest.mark.parametrize(
    "there",
    [
        device(**WANTED),
        device(monitor="30", **WANTED),
        device(**{**WANTED, "pcmk_host_map": "N2=b n1:a;"}),
        device(**{**WANTED, "pcmk_delay_base": "n2:3s"}),
    ],
)
def test_same(there: Device) -> None:
    plan = planned(found=cib(there))
    assert (plan.steps, plan.differences) == ((), ())


def test_slow_agent_is_the_same_the_second_time() -> None:
    spec = Spec("f", options={"timeout": "90"})
    first = planned(spec)
    again = planned(spec, cib(first.device, stonith_timeout=first.properties["stonith-timeout"]))
    assert again.steps == ()


def test_difference_is_an_update() -> None:
    there = device(**{**WANTED, "pcmk_host_map": "n1:a;n2:c"}, hash="sha1", ip_family="ipv4")
    plan = planned(Spec("f", options={"hash": "sha512"}), cib(there))
    assert lines(plan) == ["pcs stonith update f pcmk_host_map=n1:a;n2:b hash=sha512 ip_family="]
    assert {(one.name, one.found, one.wanted) for one in plan.differences} == {
        ("pcmk_host_map", "n1:a;n2:c", "n1:a;n2:b"),
        ("hash", "sha1", "sha512"),
        ("ip_family", "ipv4", ""),
    }


def test_difference_of_the_monitor_alone() -> None:
    there = device(monitor="5s", **WANTED)
    assert lines(planned(found=cib(there))) == ["pcs stonith update f op monitor interval=60s timeout=30s"]


def test_broken_map_is_a_difference() -> None:
    there = device(**{**WANTED, "pcmk_host_map": "n1:a;n2:b;n2"})
    assert [one.name for one in planned(found=cib(there)).differences] == ["pcmk_host_map"]


def test_another_agent() -> None:
    with pytest.raises(VmfenceError, match="there is a device f already, with the agent 'fence_ipmilan'"):
        planned(found=cib(device(agent="fence_ipmilan")))


def test_id_of_something_else() -> None:
    with pytest.raises(VmfenceError, match="the name web is taken"):
        planned(Spec("web"))


@pytest.mark.parametrize("name", ["", "1f", "a b", "-f", "a:b", "a;b", "a'b", "a\nb", "x" * 201, "é"])
def test_bad_name(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a device"):
        planned(Spec(name))


# Names of guests and nodes


@pytest.mark.parametrize(
    "name",
    ["a b", "a;b", "a:b", "a=b", "a'b", 'a"b', "a\\b", "a\nb", "a,b", "-a", "é", "a" * 63, "a" * 200, "\udcff", "$(x)"],
)
def test_awkward_guest_is_named_by_its_uuid(name: str) -> None:
    assert planned(names={"n1": name, "n2": "b"}).device.options["pcmk_host_map"] == f"n1:{UUIDS[0]};n2:b"


def test_two_guests_of_one_name_by_their_uuids() -> None:
    made = planned(names={"n1": "a", "n2": "a"}).device.options["pcmk_host_map"]
    assert made == f"n1:{UUIDS[0]};n2:{UUIDS[1]}"


def test_guest_called_like_the_uuid_of_another() -> None:
    made = planned(names={"n1": UUIDS[1].upper(), "n2": "b"}).device.options["pcmk_host_map"]
    assert made == f"n1:{UUIDS[0]};n2:b"


@pytest.mark.parametrize("name", ["n2", "N2"])
def test_guest_called_like_another_node(name: str) -> None:
    """Pacemaker would fence it for that node too, when another device is for that one."""
    assert planned(names={"n1": name}).device.options["pcmk_host_map"] == f"n1:{UUIDS[0]}"
    assert planned(names={"n1": "N1"}).device.options["pcmk_host_map"] == "n1:N1"
    unseen = [Pair("n1", Record(name, "", 0), "given", name)]
    with pytest.raises(VmfenceError, match="another node has that name"):
        make_plan(Spec("f"), unseen, [], Cluster(cib(), V21), Pcs((0, 11)))


def test_name_that_is_no_port_is_refused_with_its_character() -> None:
    for name, character in (("a b", "' '"), ("-a", "'-'"), ("a;b", "';'")):
        with pytest.raises(VmfenceError) as caught:
            make_plan(
                Spec("f"), [Pair("n1", Record(name, "", 0), "given", name)], [], Cluster(cib(), V21), Pcs((0, 11))
            )
        assert character in str(caught.value)


def test_id_of_the_properties_is_no_name() -> None:
    with pytest.raises(VmfenceError, match="is taken"):
        planned(Spec("cib-bootstrap-options"))


def test_uuid_stays_where_it_was_given() -> None:
    plan = make_plan(Spec("f"), *pairs({"n1": "a"}, UUIDS[0]), Cluster(cib(), V21), Pcs((0, 11)))
    assert plan.device.options["pcmk_host_map"] == f"n1:{UUIDS[0]}"


def test_awkward_guest_without_uuid() -> None:
    guest = Record("a b", "", 1)
    with pytest.raises(VmfenceError, match="the name of guest 'a b' cannot stand in a host map"):
        make_plan(Spec("f"), [Pair("n1", guest, "")], [guest], Cluster(cib(), V21), Pcs((0, 11)))


@pytest.mark.parametrize("node", ["n 1", "n;1", "n:1", "n=1", "n\n1", "n,1", "n\\1", ""])
def test_awkward_node_is_refused_with_the_reason(node: str) -> None:
    with pytest.raises(VmfenceError, match="cannot stand in a host map"):
        planned(names={node: "a", "n2": "b"})


def test_long_node_is_fine() -> None:
    assert planned(names={"n" * 200: "a"}).device.options["pcmk_host_map"] == f"{'n' * 200}:a"


def test_awkward_node_in_a_list() -> None:
    with pytest.raises(VmfenceError, match='node "n\'1" cannot stand in pcmk_host_list'):
        planned(Spec("f", has_static_list=True), names={"n'1": "a"})


# Options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plug", "a"),
        ("port", "a"),
        ("domain", "a"),
        ("action", "off"),
        ("nodename", "n1"),
        ("pcmk_host_map", "n1:a"),
        ("pcmk_reboot_timout", "9"),
        ("pcmk_host_check", "bogus"),
        ("pcmk_reboot_timeout", "xyz"),
        ("pcmk_reboot_timeout", "-1"),
        ("pcmk_delay_base", "n1:"),
        ("pcmk_delay_base", ";"),
        ("pcmk_delay_max", "n1:3s"),
        ("pcmk_off_retries", "0"),
        ("pcmk_action_limit", "-2"),
        ("key_file", "/a b"),
        ("key_file", "/a\nb"),
        ("key_file", ""),
        ("bad name", "x"),
        ("-f", "x"),
        ("", "x"),
        ("pcmk_host_list", "n1\n"),
        ("key_file", "/" * 100_001),
    ],
)
def test_option_that_would_be_misread(name: str, value: str) -> None:
    with pytest.raises(UsageError):
        planned(Spec("f", options={name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pcmk_host_check", "none"),
        ("pcmk_reboot_timeout", "2min"),
        ("pcmk_delay_base", "n1:1s n2:2s"),
        ("pcmk_delay_max", "5"),
        ("pcmk_action_limit", "-1"),
        ("pcmk_off_retries", "3"),
        ("pcmk_reboot_action", "off"),
        ("key_file", "/a;b='c'=$(d)"),
    ],
)
def test_option_arrives_as_given(name: str, value: str) -> None:
    plan = planned(Spec("f", options={name: value}))
    assert f"{name}={value}" in plan.steps[-1].argv


# Timeouts


@pytest.mark.parametrize(
    ("options", "monitor"),
    [
        ({"pcmk_reboot_timeout": "30"}, ""),
        ({"pcmk_off_timeout": "40s", "timeout": "35", "delay": "5"}, ""),
        ({}, "10s"),
        ({"pcmk_monitor_timeout": "5"}, ""),
        ({"timeout": "soon"}, ""),
        ({}, "soon"),
    ],
)
def test_timeouts_that_do_not_add_up(options: dict[str, str], monitor: str) -> None:
    with pytest.raises(UsageError):
        add_up("fence_vmfence", options, monitor, 60)


def test_short_property_is_raised() -> None:
    times = add_up("fence_vmfence", {}, "", 20)
    assert (times.options, times.stonith_timeout_s) == ({}, 40)
    assert add_up("fence_vmfence", {}, "", 40).stonith_timeout_s is None


# Delays


def start(
    version: tuple[int, ...] = V21,
    covered: tuple[str, ...] = ("n1", "n2"),
    given: Mapping[str, str] | None = None,
    found: Cib | None = None,
    priority_s: float = 0,
) -> Delay:
    return head_start("f", covered, given or {}, cib() if found is None else found, version, priority_s)


@pytest.mark.parametrize(
    ("version", "options"),
    [
        (V3, {"pcmk_delay_base": "n1:10s"}),
        (V21, {"pcmk_delay_base": "n1:10s"}),
        (V20, {"pcmk_delay_max": "20s"}),
        (V1, {"pcmk_delay_max": "20s"}),
        (V1_OLDEST, {}),
    ],
)
def test_delay_in_the_form_of_the_version(version: tuple[int, ...], options: dict[str, str]) -> None:
    delay = start(version)
    assert delay.options == options
    assert delay.note


@pytest.mark.parametrize("nodes", [("n1",), ("n1", "n2", "n3")])
def test_delay_is_for_two_nodes(nodes: tuple[str, ...]) -> None:
    assert start(covered=nodes, found=cib(nodes=nodes)) == Delay()


def test_delay_where_names_are_taken_as_beginnings() -> None:
    """Up to 3.0.1 a delay of node1 is one of node10 too."""
    names = ("node1", "node10")
    assert start(covered=names, found=cib(nodes=names)).options == {"pcmk_delay_base": "node10:10s"}
    assert start(V3, covered=names, found=cib(nodes=names)).options == {"pcmk_delay_base": "node1:10s"}
    other = device("g", pcmk_delay_base="node10:0s;node1:9s")
    favoured = start(covered=names, found=cib(other, nodes=names)).options
    assert favoured == {"pcmk_delay_base": "node10:0s;node1:10s"}


def test_delay_follows_another_device() -> None:
    assert start(found=cib(device("g", pcmk_delay_base="n2:9s"))).options == {"pcmk_delay_base": "n2:10s"}


def test_delay_of_this_device_stays() -> None:
    assert start(found=cib(device("f", pcmk_delay_max="7s"))).options == {"pcmk_delay_max": "7s"}


def test_priority_fencing_delay_is_enough() -> None:
    delay = start(priority_s=15)
    assert not delay.options
    assert "priority-fencing-delay" in delay.note


def test_device_for_one_node() -> None:
    assert start(V20, covered=("n1",)).options == {"pcmk_delay_base": "10s"}
    assert start(V20, covered=("n2",)).options == {}


def test_given_delay_of_both_is_none() -> None:
    assert "may still fence each other" in start(given={"pcmk_delay_base": "5s"}).note
    assert start(given={"pcmk_delay_base": "n2:5s"}) == Delay()
