"""What the fencer says, in XML and in the text forms of 1.1 and 2.0, and what crm_mon says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vmfence.cluster import fencer, status
from vmfence.cluster.fencer import FencingEvent, Parameter
from vmfence.cluster.status import DeviceStatus, NodeStatus
from vmfence.errors import ClusterUnreachable, VmfenceError

SAMPLES = Path(__file__).parents[1] / "samples" / "pacemaker-2.1.5"
NEWEST = FencingEvent("failed", "reboot", "cn2", "stonith_admin.1142", "cn1", "cn1", "2026-11-22 14:58:28Z")


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


def test_a_real_history() -> None:
    events = fencer.parse_history(sample("history.xml"))
    assert events[0] == NEWEST
    assert [event.status for event in events].count("success") == 4
    assert events[-1].target == "nosuch" and events[-1].delegate == ""
    assert fencer.parse_history(sample("history-empty.xml")) == ()


def test_text_and_xml_of_one_history_are_the_same_but_for_what_the_text_lacks() -> None:
    assert fencer.parse_history_text(sample("history.txt")) == fencer.parse_history(sample("history.xml"))


def test_the_reason_of_a_failure() -> None:
    event = '<fence_event status="failed" action="off" target="n" client="c" origin="o" exit-reason="no power"/>'
    (found,) = fencer.parse_history(f'<pacemaker-result><list name="h">{event}</list></pacemaker-result>')
    assert (found.action, found.reason) == ("off", "no power")


@pytest.mark.parametrize("attributes", ['status="odd" target="n"', 'status="failed"', 'target="n"'])
def test_an_event_that_says_nothing_is_an_error(attributes: str) -> None:
    with pytest.raises(VmfenceError, match="cannot read the fencer's history"):
        fencer.parse_history(f"<pacemaker-result><fence_event {attributes}/></pacemaker-result>")


# The sentences of Pacemaker's stonith_admin: 1.1.8, 1.1.2x, 2.0.x, 2.1.5.  Written after its sources.
@pytest.mark.parametrize(
    ("line", "event"),
    [
        (
            "n1 was able to reboot node n2 on behalf of stonith_admin.77 from n3 at Wed Nov 25 10:00:00 2026",
            FencingEvent("success", "reboot", "n2", "stonith_admin.77", "n3", "n1", "Wed Nov 25 10:00:00 2026"),
        ),
        (
            "We were able to turn off node n2 on behalf of n3 at Wed Nov 25 10:00:00 2026",
            FencingEvent("success", "off", "n2", "", "n3", "", "Wed Nov 25 10:00:00 2026"),
        ),
        (
            "This node failed to turn on node n2 on behalf of crmd.1 from n3 at Wed Nov 25 10:00:00 2026",
            FencingEvent("failed", "on", "n2", "crmd.1", "n3", "", "Wed Nov 25 10:00:00 2026"),
        ),
        (
            "stonith_admin.77 at n3 wishes to reboot node n2 - querying 0",
            FencingEvent("pending", "reboot", "n2", "stonith_admin.77", "n3"),
        ),
        (
            "turning off of n2 successful: delegate=n1, client=c.1, origin=n3, completed='2026-11-25 10:00:00'",
            FencingEvent("success", "off", "n2", "c.1", "n3", "n1", "2026-11-25 10:00:00"),
        ),
        (
            "reboot of n2 failed (No such device): client=c.1, origin=n3, completed='2026-11-25 10:00:00.123456 +01:00'"
            " (a later attempt from n1 succeeded)",
            FencingEvent(
                "failed", "reboot", "n2", "c.1", "n3", "", "2026-11-25 10:00:00.123456 +01:00", "No such device"
            ),
        ),
        (
            "unfencing of n2 pending: client=c.1, origin=n3",
            FencingEvent("pending", "on", "n2", "c.1", "n3"),
        ),
    ],
)
def test_text_forms(line: str, event: FencingEvent) -> None:
    assert fencer.parse_history_text(f"{line}\n\n1 events found\n") == (event,)


def test_the_last_success_that_1_1_repeats_at_the_end_is_one_event() -> None:
    line = "n1 was able to reboot node n2 on behalf of c.1 from n3 at Wed Nov 25 10:00:00 2026\n\n"
    assert len(fencer.parse_history_text(line * 2)) == 1


def test_a_line_that_is_no_event_is_an_error_and_no_event_less() -> None:
    with pytest.raises(VmfenceError, match="unknown line 'something else'"):
        fencer.parse_history_text("something else\n")


@pytest.mark.parametrize(
    ("completed", "seconds"),
    [
        ("2026-11-22 14:58:28Z", 1795359508.0),
        ("2026-11-22 14:58:28 +00:00", 1795359508.0),
        ("2026-11-22 15:58:28.250000 +01:00", 1795359508.25),
        ("2026-11-22 15:58:28 +0100", 1795359508.0),
        ("", None),
        ("yesterday", None),
    ],
)
def test_when_a_fencing_ended(completed: str, seconds: float | None) -> None:
    assert FencingEvent("success", "off", "n", "c", "o", "d", completed).completed_at() == seconds


def test_a_time_without_a_zone_is_local() -> None:
    seconds = time.mktime((2026, 11, 22, 14, 58, 28, 0, 0, -1))
    for text in ("2026-11-22 14:58:28", "Sun Nov 22 14:58:28 2026"):
        assert FencingEvent("success", "off", "n", "c", "o", "d", text).completed_at() == seconds


@pytest.mark.parametrize(
    ("name", "names"), [("devices-for-cn2", ("xvm",)), ("devices-for-nobody", ()), ("installed", None)]
)
def test_lists_in_xml_and_text(name: str, names: tuple[str, ...] | None) -> None:
    found = fencer.parse_names(sample(f"{name}.xml"), "the list")
    assert found == fencer.parse_names_text(sample(f"{name}.txt"))
    if names is None:
        assert len(found) == 41 and "fence_xvm" in found
    else:
        assert found == names


def test_the_list_of_1_1() -> None:
    assert fencer.parse_names_text(" fence_xvm\n fence_virt\n") == ("fence_xvm", "fence_virt")


@pytest.mark.parametrize("form", ["metadata.xml", "metadata.txt"])
def test_metadata(form: str) -> None:
    found = fencer.parse_metadata(sample(form))
    assert (found.name, found.shortdesc) == ("fence_xvm", "Fence agent for virtual machines")
    assert found.longdesc.endswith("\nNOTE: reboot-action does not power on nodes that are powered off.")
    assert {"on", "off", "reboot", "status", "list", "monitor"} <= set(found.actions)
    text = "Specify (stdin) or increment (command line) debug level"
    assert found.parameters[0] == Parameter("debug", "boolean", shortdesc=text)
    plug, port = found.parameter("plug"), found.parameter("port")
    assert plug is not None and plug.obsoletes == "port" and not plug.deprecated
    assert port is not None and port.deprecated
    assert found.parameter("nothing") is None


def test_metadata_with_choices_and_needs() -> None:
    found = fencer.parse_metadata(
        '<resource-agent name="a"><parameters><parameter name="p" required="1"><content type="select" default="x">'
        '<option value="x"/><option value="y"/></content></parameter><parameter name="q"/></parameters>'
        "</resource-agent>"
    )
    assert found.parameters == (Parameter("p", "select", "x", True, choices=("x", "y")), Parameter("q"))


@pytest.mark.parametrize("text", ["", "(null)", "<a/>", "<pacemaker-result/>", "<pacemaker-result><metadata>no"])
def test_what_is_no_metadata(text: str) -> None:
    with pytest.raises(VmfenceError, match="cannot read the agent's metadata"):
        fencer.parse_metadata(text)


def test_a_real_status() -> None:
    found = status.parse(sample("crm_mon-started.xml"))
    assert found.node("CN2") == NodeStatus("cn2", is_online=True, is_dc=True)
    assert found.devices == (DeviceStatus("xvm", "fence_xvm", "Started", True, False, ("cn1",)),)
    assert found.devices[0].is_started
    assert (found.with_quorum, found.dc, found.is_fencing_enabled) == (True, "cn2", True)
    assert found.dc_version == "2.1.5-a3f44794f94"


def test_a_device_that_could_not_be_started_and_a_node_that_is_off() -> None:
    device = status.parse(sample("crm_mon-device-failed.xml")).device("xvm")
    assert device is not None and (device.role, device.is_started) == ("Stopped", False)
    node = status.parse(sample("crm_mon-node-off.xml")).node("cn2")
    assert node is not None and not node.is_online and not node.is_unclean


# After the schema of 1.1: another root, instances of a clone, a node to be fenced, nobody who decides.
OLD = """<crm_mon version="1.1.23"><summary><current_dc present="false"/>
<cluster_options stonith-enabled="false"/></summary>
<nodes><node name="n1" online="false" unclean="true" pending="true" standby="true" maintenance="true" type="member"/>
<node name="far" online="true" type="remote"/><node name="gate" online="true" type="ping"/></nodes>
<resources><clone id="c"><resource id="xvm:0" resource_agent="stonith:fence_xvm" role="Started" active="true"
failed="true"><node name="n1"/></resource></clone><resource id="web" resource_agent="ocf::heartbeat:Dummy"/></resources>
</crm_mon>"""


def test_the_status_of_1_1() -> None:
    found = status.parse(OLD)
    assert found.nodes == (
        NodeStatus("n1", False, True, True, True, True, False, False),
        NodeStatus("far", is_online=True, is_remote=True),
    )
    assert found.devices == (DeviceStatus("xvm", "fence_xvm", "Started", True, True, ("n1",)),)
    assert not found.devices[0].is_started
    assert (found.with_quorum, found.dc, found.is_fencing_enabled) == (None, "", False)


def test_the_new_name_of_fencing_enabled_counts_first() -> None:
    options = '<cluster_options stonith-enabled="true" fencing-enabled="false"/>'
    text = f"<pacemaker-result><summary>{options}</summary><nodes/></pacemaker-result>"
    assert status.parse(text).is_fencing_enabled is False


def test_no_status_yet_is_not_an_empty_cluster() -> None:
    with pytest.raises(ClusterUnreachable, match="no status yet"):
        status.parse('<pacemaker-result><pacemakerd state="starting_daemons"/></pacemaker-result>')


def test_another_document_is_no_status() -> None:
    with pytest.raises(VmfenceError, match="its root is 'cib'"):
        status.parse("<cib/>")
