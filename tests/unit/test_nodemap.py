"""The map of nodes and guests, and what is lost when a device goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unit.test_device_plan import V21, cib, device
from vmfence.cluster.cib import Level
from vmfence.cluster.inquiry import answers_of, inquiry_of
from vmfence.cluster.nodemap import Row, rows
from vmfence.cluster.removal import Loss, loss_of
from vmfence.errors import VmfenceError
from vmfence.protocol.reply import Record, State

A = Record("a", "88000000-0000-4000-8000-00000000000a", State.RUNNING)
B = Record("b", "88000000-0000-4000-8000-00000000000b", State.SHUT_OFF)
BOTH = {"pcmk_host_map": "n1:a;n2:b"}


def problems(found: list[Row]) -> list[str]:
    return [row.problem for row in found]


def test_guests_by_name_and_uuid() -> None:
    found = rows(cib(device(pcmk_host_map=f"n1:a;N2:{B.uuid.upper()}")), V21, {"f": [A, B]})
    assert [(row.node, row.guest, row.how, row.problem) for row in found] == [
        ("n1", A, "map", ""),
        ("n2", B, "map", "the guest is not running"),
    ]


def test_list_names_guests_like_nodes() -> None:
    [row, _] = rows(cib(device(pcmk_host_list="a"), nodes=("a", "n2")), V21, {"f": [A]})
    assert (row.how, row.guest, row.problem) == ("list", A, "")


def test_what_is_wrong() -> None:
    twin = Record("a", B.uuid, State.RUNNING)
    assert problems(rows(cib(device(**BOTH)), V21, {"f": [A, twin]}))[0].startswith("the host shows several guests")
    assert (
        problems(rows(cib(device(pcmk_host_map="n1:x;n2:x")), V21, {"f": [A]})) == ["the host shows no such guest"] * 2
    )
    assert (
        problems(rows(cib(device(pcmk_host_map=f"n1:a;n2:{A.uuid}")), V21, {"f": [A]}))
        == ["another node has the same guest"] * 2
    )
    assert problems(rows(cib(), V21, {})) == ["no device names it"] * 2
    found = rows(cib(device(pcmk_host_map="n1:a;n2:b;nn2:b")), V21, {"f": [A]})
    assert problems(found)[2] == "the cluster has no such node"
    assert (
        problems(rows(cib(replace(device(**BOTH), is_disabled=True)), V21, {"f": [A]}))[0] == "the device is disabled"
    )


def test_two_devices_that_lead_to_different_guests() -> None:
    other = device("g", pcmk_host_map="n1:c")
    guests = [A, B, Record("c", "88000000-0000-4000-8000-00000000000c", State.RUNNING)]
    answers = {"f": guests, "g": guests}
    found = rows(cib(device(**BOTH), other), V21, answers)
    assert problems(found) == ["another device leads to another guest"] * 2 + ["the guest is not running"]
    found = rows(cib(device(**BOTH), replace(other, is_disabled=True)), V21, answers)
    assert problems(found)[0] == ""


def test_node_that_the_map_names_twice() -> None:
    found = rows(cib(device(pcmk_host_map="n1:b;n2:b;n1:a")), V21, {"f": [A, B]})
    assert (found[0].guest, found[0].problem) == (A, "the map names it 2 times, and only the last one counts")


def test_guest_that_is_called_like_another_node() -> None:
    """Pacemaker takes the ports of a map for names of nodes."""
    guest = replace_name(A, "N2")
    found = rows(cib(device(pcmk_host_map="n1:N2")), V21, {"f": [guest]})
    assert [(row.node, row.how, row.port) for row in found] == [("n1", "map", "N2"), ("n2", "port", "n2")]
    assert problems(found)[1] == "no device names it, and the guest of another node has its name"
    assert (
        problems(rows(cib(device(pcmk_host_map="n1:n2;n2:n1")), V21, {"f": []})) == ["the host shows no such guest"] * 2
    )


def replace_name(guest: Record, name: str) -> Record:
    return Record(name, guest.uuid, guest.state)


def test_other_agents_are_not_asked() -> None:
    found = rows(cib(device(agent="fence_ipmilan", pcmk_host_list="n1,n2")), V21, {})
    assert problems(found)[0] == "not asked: fence_ipmilan has no host that shows guests"


def test_host_that_cannot_be_asked() -> None:
    broken = device(key_file="/nowhere/key", **BOTH)
    found = rows(cib(broken), V21, answers_of([broken]))
    assert problems(found)[0].startswith("nothing known from the host: ")
    assert "/nowhere/key" in problems(found)[0]


# From options to a question


def test_question_of_a_device() -> None:
    options = {
        **{"multicast_address": "225.0.0.9", "ip_family": "IPv4", "ipport": "1230", "key_file": "/k"},
        **{"hash": "SHA512", "auth": "none", "timeout": "7s", "pcmk_host_map": "n1:a"},
    }
    asked = inquiry_of(options, "fence_xvm")
    assert (asked.address, asked.family, asked.port, asked.key_file) == ("225.0.0.9", "ipv4", 1230, "/k")
    assert (asked.hash_name, asked.auth_name, asked.timeout_s, asked.ipaddr) == ("sha512", "none", 7.0, None)
    assert inquiry_of({"ipaddr": "10.0.0.1"}).ipaddr == "10.0.0.1"
    assert inquiry_of({"ipaddr": "10.0.0.1"}, "fence_xvm").ipaddr is None


@pytest.mark.parametrize(
    ("options", "agent", "way"),
    [
        ({}, "fence_vmfence", "multicast default group port 1229"),
        ({}, "fence_virt", "VM channel 10.0.2.179 port 1229"),
        ({"vsock": ""}, "fence_vmfence", "vsock CID 2 port 1229"),
        ({"vsock": "7", "ipaddr": "10.0.0.1"}, "fence_virt", "vsock CID 7 port 1229"),
        ({"vsock": "7"}, "fence_xvm", "multicast default group port 1229"),
        ({"ipaddr": "10.0.0.1", "serial_device": "/dev/ttyS1"}, "fence_virt", "TCP 10.0.0.1 port 1229"),
        ({"serial_device": "/dev/ttyS2"}, "", "serial line /dev/ttyS2"),
        ({"channel_address": "10.0.2.180"}, "fence_vmfence", "VM channel 10.0.2.180 port 1229"),
        ({"transport": "virtio"}, "fence_vmfence", "virtio port /dev/virtio-ports/org.vmfence.0"),
        ({"transport": "serial"}, "fence_vmfence", "serial line /dev/ttyS1"),
        ({"transport": "auto"}, "fence_vmfence", "the first way that leads to a host"),
    ],
)
def test_the_way_is_that_of_the_agent(options: dict[str, str], agent: str, way: str) -> None:
    assert str(inquiry_of(options, agent)) == way


@pytest.mark.parametrize(
    ("options", "agent"),
    [
        ({"ipport": "0"}, ""),
        ({"ipport": "x"}, ""),
        ({"ipport": ""}, ""),
        ({"hash": "md5"}, ""),
        ({"auth": ""}, ""),
        ({"ip_family": "ipx"}, ""),
        ({"timeout": "soon"}, ""),
        ({"timeout": "0"}, ""),
        ({"vsock": "1"}, ""),
        ({"vsock": "host"}, ""),
        ({"transport": "pigeon"}, ""),
    ],
)
def test_question_that_cannot_be_put(options: dict[str, str], agent: str) -> None:
    with pytest.raises(VmfenceError):
        inquiry_of(options, agent)


# Removal


def lost(name: str, *devices: object, **more: object) -> Loss:
    fencer = more.pop("fencer", {})
    return loss_of(name, replace(cib(*devices), **more), V21, fencer)  # type: ignore[arg-type]


def test_last_device_of_all_nodes() -> None:
    assert lost("f", device(**BOTH)) == Loss(("n1", "n2"), ("n1", "n2"))


def test_another_device_covers_one() -> None:
    assert lost("f", device(**BOTH), device("g", pcmk_host_list="n2")) == Loss(("n1", "n2"), ("n1",))


def test_a_disabled_or_banned_device_covers_none() -> None:
    other = device("g", **BOTH)
    assert lost("f", device(**BOTH), replace(other, is_disabled=True)).bare == ("n1", "n2")
    assert lost("f", device(**BOTH), other, bans={"g": frozenset({"n1", "n2"})}).bare == ("n1", "n2")


def test_a_device_that_asks_its_agent_counts_where_the_fencer_says_so() -> None:
    devices = device(**BOTH), device("g", pcmk_host_check="dynamic-list")
    assert lost("f", *devices).bare == ("n1", "n2")
    assert lost("f", *devices, fencer={"n1": ("f", "g"), "n2": ("f",)}).bare == ("n2",)


def test_a_guest_that_is_called_like_another_node_covers_that_node() -> None:
    assert lost("f", device(pcmk_host_map="n1:N2")) == Loss(("n1", "n2"), ("n1", "n2"))


def test_levels() -> None:
    """A node with levels is fenced by their devices alone, until the last of them goes."""
    both = device(**BOTH), device("g", **BOTH), device("h", **BOTH)
    level = Level(1, "node", "n1", ("f",))
    second = Level(2, "node", "n1", ("g",))
    assert lost("g", *both, levels=(level,)) == Loss(("n2",), ())
    assert lost("f", *both, levels=(level, second)).bare == ()
    assert lost("f", *both, levels=(level, replace(second, devices=("k",)))).bare == ("n1",)
    assert lost("f", *both, levels=(level,)).bare == ()


def test_no_such_device() -> None:
    with pytest.raises(VmfenceError) as caught:
        lost("x", device(**BOTH))
    assert str(caught.value) == "there is no device 'x'. the cluster has f."
