"""Host maps, host lists and delays as the fencer of each version reads them."""

from __future__ import annotations

import pytest

from vmfence.cluster import hostmap
from vmfence.cluster.cib import Device
from vmfence.errors import VmfenceError

OLD, MIDDLE, NEW = (2, 1, 1), (2, 1, 5), (3, 0, 2)
Pairs = list[tuple[str, str]]
EVERY = ((1, 1, 23), OLD, (2, 1, 2), MIDDLE, (3, 0, 1), NEW)


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("n1:a;n2:b", (("n1", "a"), ("n2", "b"))),
        ("n1=a n2=b", (("n1", "a"), ("n2", "b"))),
        (" n1:a;;\tn2:b; ", (("n1", "a"), ("n2", "b"))),
        ("n2:2,3", (("n2", "2,3"),)),
        ("", ()),
    ],
)
def test_what_every_version_reads_alike(text: str, pairs: object, version: tuple[int, ...]) -> None:
    found = hostmap.parse_host_map(text, version)
    assert (found.pairs, found.faults) == (pairs, ())


@pytest.mark.parametrize(
    ("text", "old", "middle", "new"),
    [
        ("n1:aa:bb", [("aa", "bb")], [("aa", "bb")], [("n1", "aa:bb")]),
        (r"n1:aa\:bb", [(r"aa\ "[:-1], "bb")], [("n1", "aa:bb")], [("n1", r"aa\:bb")]),
        (r"n1:my\ vm", [("n1", "my\\")], [("n1", "my vm")], [("n1", "my\\")]),
        (r"n1:a\\b", [("n1", r"a\\b")], [("n1", "ab")], [("n1", r"a\\b")]),
        (r"n1:a;b\;n2:c", [("n1", "a"), ("n2", "c")], [("n1", "a"), (r"b\;n2", "c")], [("n1", "a"), ("n2", "c")]),
        ("n1: a", [("n1", "")], [("n1", "")], []),
        ("n1:a,n2:b", [("a,n2", "b")], [("a,n2", "b")], [("n1", "a,n2:b")]),
        ("n1::a", [("n1", "a")], [("n1", "a")], [("n1", ":a")]),
        (":a", [], [], []),
        ("n1", [], [], []),
        ("n1:a\\", [("n1", "a\\")], [("n1", "a")], [("n1", "a\\")]),
    ],
)
def test_where_versions_differ(text: str, old: Pairs, middle: Pairs, new: Pairs) -> None:
    for version, pairs in ((OLD, old), ((2, 1, 2), middle), ((3, 0, 1), middle), (NEW, new)):
        assert list(hostmap.parse_host_map(text, version).pairs) == pairs


@pytest.mark.parametrize(
    ("text", "version", "fault"),
    [
        ("n1:aa:bb", MIDDLE, "it is read as node 'aa'"),
        ("n1: a", MIDDLE, "the port of node 'n1' is empty"),
        ("n1: a", NEW, "'n1:' is no pair of node and port"),
        ("n1:a,n2:b", OLD, "'a,n2' is taken for one node"),
        ("n1:a;N1:b", NEW, "node 'N1' stands there twice"),
        ("n1:a b", MIDDLE, "'b' is no pair"),
        ("nonsense", NEW, "no pair of node and port"),
    ],
)
def test_what_is_wrong_is_told(text: str, version: tuple[int, ...], fault: str) -> None:
    assert fault in "; ".join(hostmap.parse_host_map(text, version).faults)


@pytest.mark.parametrize("version", EVERY)
def test_what_we_write_every_version_reads_back(version: tuple[int, ...]) -> None:
    pairs = (("n1", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"), ("node-2.example", "web_01"), ("n3", "gäst"))
    assert hostmap.parse_host_map(hostmap.format_host_map(pairs), version) == hostmap.HostMap(pairs)


@pytest.mark.parametrize("bad", [":", "=", ";", "\\", " ", "\t", "\n", "\x00"])
def test_what_some_version_would_misread_is_never_written(bad: str) -> None:
    with pytest.raises(VmfenceError) as caught:
        hostmap.format_host_map([("n1", f"a{bad}b")])
    assert repr(bad) in str(caught.value) and "node n1" in str(caught.value) and "UUID" in str(caught.value)
    with pytest.raises(VmfenceError, match="the node name"):
        hostmap.format_host_map([(f"n{bad}1", "a")])


@pytest.mark.parametrize(
    ("pairs", "why"),
    [([("n1", "")], "empty"), ([("", "a")], "empty"), ([("n1", "a"), ("N1", "b")], "twice"), ([("a,b", "c")], "','")],
)
def test_maps_that_cannot_be_written(pairs: list[tuple[str, str]], why: str) -> None:
    with pytest.raises(VmfenceError) as caught:
        hostmap.format_host_map(pairs)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1,n2", ("n1", "n2")),
        ("n1 n2;n3\nn4\tn5", ("n1", "n2", "n3", "n4", "n5")),
        ("n1.example/x,n2", ("n1.example", "n2")),
        ("on,OFF,n1", ("n1",)),
        ("invalid option\nn1", ("n1",)),
        ("!,n1", ("n1",)),
        ("", ()),
    ],
)
def test_host_lists(text: str, names: tuple[str, ...]) -> None:
    assert hostmap.parse_host_list(text) == names


def test_ports_of_a_device_ignore_the_case_of_nodes_and_prefer_the_map() -> None:
    options = {"pcmk_host_list": "n1,n3", "pcmk_host_map": "n1:a;N2:b"}
    ports = hostmap.ports_of(Device("d", "fence_xvm", options, {}, ()), MIDDLE)
    assert dict(ports) == {"n1": "a", "n3": "n3", "N2": "b"}
    assert (ports["N1"], ports.get("n2"), ports.get("n9"), "n2" in ports, len(ports)) == ("a", "b", None, True, 3)


@pytest.mark.parametrize(
    ("text", "version", "delays"),
    [
        ("5", OLD, (5, 5, 5)),
        ("5s", MIDDLE, (5, 5, 5)),
        ("PT1M", NEW, (60, 60, 60)),
        ("n1:3s;n10:1s", MIDDLE, (3, 3, 0)),
        ("n10:1s;n1:3s", MIDDLE, (3, 1, 0)),
        ("n1:3s;n10:1s", (3, 0, 1), (3, 3, 0)),
        ("n1:3s;n2:1s", (2, 1, 2), (3, 3, 1)),
        ("n1:3s;n10:1s", NEW, (3, 1, 0)),
        ("n1:3s;n10:1s", OLD, (0, 0, 0)),
        ("2s N1:3s", MIDDLE, (3, 3, 2)),
        ("2s n1:3s", NEW, (3, 0, 0)),
        ("n1:nonsense n1:4", NEW, (4, 0, 0)),
        ("500ms", MIDDLE, (0, 0, 0)),
        ("", NEW, (0, 0, 0)),
    ],
)
def test_delays(text: str, version: tuple[int, ...], delays: tuple[float, ...]) -> None:
    found = hostmap.parse_delay_map(text, version)
    assert tuple(found.delay_s(node, version) for node in ("n1", "n10", "n2")) == delays


@pytest.mark.parametrize(
    ("text", "version", "fault"),
    [("n1:3s", OLD, "2.1.2"), ("n1:x", NEW, "'n1:x'"), ("nonsense", MIDDLE, "is no duration"), ("5 n1:2", NEW, "'5'")],
)
def test_delays_that_do_not_work_are_told(text: str, version: tuple[int, ...], fault: str) -> None:
    assert fault in "; ".join(hostmap.parse_delay_map(text, version).faults)


@pytest.mark.parametrize("version", [(1, 1, 23), (2, 1, 5), (3, 0, 2)])
def test_ports_are_names_of_nodes_too_unless_the_map_names_the_node(version: tuple[int, ...]) -> None:
    found = Device("f", "fence_xvm", {"pcmk_host_map": "n1:n2;n3:n1", "pcmk_host_list": "n4"}, {}, ())
    assert dict(hostmap.targets_of(found, version)) == {"n2": "n2", "n1": "n2", "n4": "n4", "n3": "n1"}
    assert "n2" not in hostmap.ports_of(found, version)
