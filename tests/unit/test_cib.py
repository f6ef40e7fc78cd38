"""The CIB as objects: a real one, and what the schemas of 1.1 to 3.0 allow besides."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmfence.cluster import cib
from vmfence.cluster.cib import Cib, Level, Node, Operation
from vmfence.errors import VmfenceError

SAMPLES = Path(__file__).parents[1] / "samples" / "pacemaker-2.1.5"
XVM = '<primitive id="xvm" class="stonith" type="fence_xvm">{}</primitive>'
STOPPED = '<meta_attributes id="{}-m"><nvpair id="{}-m-1" name="target-role" value="{}"/></meta_attributes>'


def configured(inside: str, **attributes: str) -> Cib:
    words = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return cib.parse(f"<cib{words}><configuration>{inside}</configuration></cib>")


def resources(inside: str, rest: str = "") -> Cib:
    return configured(f"<resources>{inside}</resources>{rest}")


def attributes(id_: str, **values: str) -> str:
    pairs = "".join(f'<nvpair id="{id_}-{name}" name="{name}" value="{value}"/>' for name, value in values.items())
    return f'<instance_attributes id="{id_}">{pairs}</instance_attributes>'


def test_a_real_cib() -> None:
    found = cib.parse((SAMPLES / "cib.xml").read_bytes())
    assert found.nodes == (Node("cn1", "1"), Node("cn2", "2"))
    (device,) = found.devices
    assert (device.id, device.agent, device.is_disabled) == ("xvm", "fence_xvm", False)
    assert device.options == {"pcmk_host_map": "cn1:cn-01;cn2:cn-02"}
    assert device.operation("monitor") == Operation("monitor", "60s", "")
    assert found.properties["stonith-enabled"] == "true"
    assert (found.feature_set, found.have_quorum) == ("3.16.1", True)
    assert {"xvm", "xvm-monitor-interval-60s", "cib-bootstrap-options"} <= found.ids
    assert found.device("xvm") is device and found.device("other") is None


def test_nodes_are_members_remote_nodes_and_guest_nodes_but_no_ping_nodes() -> None:
    remote_node = '<nvpair id="v-r" name="remote-node" value="in-vm"/>'
    found = configured(
        '<nodes><node id="1" uname="a" type="member"/><node id="p" uname="gate" type="ping"/>'
        '<node id="far" uname="far" type="remote"/></nodes>'
        '<resources><primitive id="far" class="ocf" provider="pacemaker" type="remote"/>'
        '<primitive id="near" class="ocf" provider="pacemaker" type="remote"/>'
        '<primitive id="vm" class="ocf" provider="heartbeat" type="VirtualDomain">'
        f'<meta_attributes id="v">{remote_node}</meta_attributes></primitive></resources>'
    )
    assert [(node.name, node.is_remote) for node in found.nodes] == [
        ("a", False),
        ("far", True),
        ("near", True),
        ("in-vm", True),
    ]
    assert found.resources == ("far", "near", "vm")


@pytest.mark.parametrize(
    ("text", "is_disabled", "container"),
    [
        (XVM.format(STOPPED.format("x", "x", "Stopped")), True, ""),
        (XVM.format(STOPPED.format("x", "x", "stopped")), True, ""),
        (XVM.format(STOPPED.format("x", "x", "Started")), False, ""),
        (f'<group id="g">{STOPPED.format("g", "g", "Stopped")}{XVM.format("")}</group>', True, "g"),
        (
            f'<clone id="c">{STOPPED.format("c", "c", "Stopped")}<group id="g">{XVM.format("")}</group></clone>',
            True,
            "g",
        ),
        (
            f'<group id="g">{STOPPED.format("g", "g", "Stopped")}{XVM.format(STOPPED.format("x", "x", "Started"))}'
            "</group>",
            False,
            "g",
        ),
    ],
)
def test_disabled_on_itself_or_by_its_container(text: str, is_disabled: bool, container: str) -> None:
    (device,) = resources(text).devices
    assert (device.is_disabled, device.container) == (is_disabled, container)


def test_disabled_by_the_resource_defaults_unless_it_says_otherwise() -> None:
    defaults = f"<rsc_defaults>{STOPPED.format('d', 'd', 'Stopped')}</rsc_defaults>"
    assert resources(XVM.format(""), defaults).devices[0].is_disabled
    assert not resources(XVM.format(STOPPED.format("x", "x", "Started")), defaults).devices[0].is_disabled


def test_options_come_from_a_template_too_and_the_own_ones_win() -> None:
    template = (
        f'<template id="t" class="stonith" type="fence_xvm">{attributes("t-i", timeout="20", hash="sha512")}'
        '<operations><op id="t-m" name="monitor" interval="30s" timeout="40s"/></operations></template>'
    )
    (device,) = resources(f'{template}<primitive id="xvm" template="t">'
                          f"{attributes('i', timeout='5')}</primitive>").devices  # fmt: skip
    assert (device.agent, device.options) == ("fence_xvm", {"timeout": "5", "hash": "sha512"})
    assert device.operations == (Operation("monitor", "30s", "40s"),)


def test_options_by_reference() -> None:
    other = f'<primitive id="one" class="stonith" type="fence_xvm">{attributes("shared", timeout="7")}</primitive>'
    device = resources(other + XVM.format('<instance_attributes id-ref="shared"/>')).device("xvm")
    assert device is not None and device.options == {"timeout": "7"}


def test_a_reference_to_nothing_is_an_error() -> None:
    with pytest.raises(VmfenceError, match="refers to 'gone', which is not there"):
        resources(XVM.format('<instance_attributes id-ref="gone"/>'))


def test_an_operation_that_is_switched_off_is_none() -> None:
    ops = '<op id="a" name="monitor" interval="60s" enabled="false"/><op id="b" name="start" interval="0" timeout="9"/>'
    (device,) = resources(XVM.format(f"<operations>{ops}</operations>")).devices
    assert device.operations == (Operation("start", "0", "9"),)


def test_a_set_with_a_rule_is_not_taken_for_a_fact() -> None:
    rule = '<rule id="r" score="9"><date_expression id="e" operation="gt" start="2030-01-01"/></rule>'
    sets = (
        f'<instance_attributes id="later" score="9">{rule}<nvpair id="l" name="timeout" value="1"/>'
        "</instance_attributes>"
        f"{attributes('now', timeout='2')}"
    )
    found = resources(XVM.format(sets))
    assert found.devices[0].options == {"timeout": "2"}
    assert found.conditional == ("later",)


def test_of_several_property_sets_the_first_one_counts() -> None:
    def property_set(id_: str, score: str, value: str) -> str:
        pair = f'<nvpair id="{id_}-n" name="stonith-enabled" value="{value}"/>'
        return f'<cluster_property_set id="{id_}" score="{score}">{pair}</cluster_property_set>'

    low, high = property_set("low", "1", "low"), property_set("high", "INFINITY", "high")
    own = property_set("cib-bootstrap-options", "-5", "own")
    for sets, value in ((low + high, "high"), (low + high + own, "own"), (low + property_set("b", "1", "b"), "low")):
        assert configured(f"<crm_config>{sets}</crm_config>").properties == {"stonith-enabled": value}


def test_levels() -> None:
    levels = (
        '<fencing-level id="a" index="1" target="n1" devices="one,two"/>'
        '<fencing-level id="b" index="2" target-pattern="n.*" devices="one"/>'
        '<fencing-level id="c" index="x" target-attribute="rack" target-value="1" devices="two"/>'
    )
    assert configured(f"<fencing-topology>{levels}</fencing-topology>").levels == (
        Level(1, "node", "n1", ("one", "two")),
        Level(2, "pattern", "n.*", ("one",)),
        Level(0, "attribute", "rack=1", ("two",)),
    )


LOCATION = '<rsc_location id="l{0}" rsc="{1}" node="{2}" score="{3}"/>'


@pytest.mark.parametrize(
    ("constraints", "bans"),
    [
        (LOCATION.format(1, "xvm", "n1", "-INFINITY"), {"xvm": {"n1"}}),
        (LOCATION.format(1, "xvm", "n1", "-1"), {"xvm": {"n1"}}),
        (LOCATION.format(1, "xvm", "n1", "100"), {}),
        (LOCATION.format(1, "xvm", "n1", "-100") + LOCATION.format(2, "xvm", "n1", "200"), {}),
        (LOCATION.format(1, "xvm", "n1", "nonsense"), {}),
        (
            '<rsc_location id="l" rsc="xvm"><rule id="r" score="-INFINITY">'
            '<expression id="e" attribute="#uname" operation="eq" value="n2"/></rule></rsc_location>',
            {"xvm": {"n2"}},
        ),
        (
            '<rsc_location id="l" rsc="xvm"><rule id="r" score="-INFINITY">'
            '<expression id="e" attribute="rack" operation="eq" value="n2"/></rule></rsc_location>',
            {},
        ),
        (
            '<rsc_location id="l" node="n1" score="-INFINITY"><resource_set id="s"><resource_ref id="xvm"/>'
            '<resource_ref id="web"/></resource_set></rsc_location>',
            {"xvm": {"n1"}, "web": {"n1"}},
        ),
    ],
)
def test_where_a_device_is_forbidden(constraints: str, bans: dict[str, set[str]]) -> None:
    assert configured(f"<constraints>{constraints}</constraints>").bans == bans


def test_a_half_configured_cib_has_nothing() -> None:
    found = configured("<crm_config/><nodes/><resources/>")
    assert (found.nodes, found.devices, found.properties, found.have_quorum) == ((), (), {}, None)
    assert configured("", have_quorum="0").have_quorum is False


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<crm_mon/>", "root is 'crm_mon'"),
        ("<cib/>", "no configuration"),
        ("", "not XML"),
        ("<cib><configuration><nodes><node id='1'/></nodes></configuration></cib>", "a node has no uname"),
        (
            "<cib><configuration><resources><primitive class='stonith'/></resources></configuration></cib>",
            "a primitive has no id",
        ),
        ("<!DOCTYPE cib [<!ENTITY a 'b'>]><cib>&a;</cib>", "cannot read"),
    ],
)
def test_what_is_no_cib_is_refused(text: str, why: str) -> None:
    with pytest.raises(VmfenceError) as caught:
        cib.parse(text)
    assert why in str(caught.value)


def test_a_cib_cut_short_is_never_a_smaller_cib() -> None:
    whole = (SAMPLES / "cib.xml").read_bytes().strip()
    for length in range(0, len(whole) - 1, 7):
        with pytest.raises(VmfenceError):
            cib.parse(whole[:length])
