"""vmfence host list: what libvirt has and who may fence it, without a daemon."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lab.desk import CUSTOM, GUESTS, NOWHERE, Desk, Terminal, hung_libvirt, one_error
from lab.ours import CommandLine
from lab.process import Result, run_client

UUIDS = tuple(GUESTS.values())


@pytest.fixture
def desk(vmfence: CommandLine, tmp_path: Path) -> Desk:
    return Desk(vmfence, tmp_path)


def listed(desk: Desk, *options: str) -> Result:
    return run_client([desk.vmfence.vmfence, "host", "list"], options)


def test_everybody_with_the_key(desk: Desk) -> None:
    desk.run(*desk.options)
    done = listed(desk, "-f", str(desk.target))
    assert (done.exit, done.stderr) == (0, "")
    head, first, second = done.stdout.splitlines()
    assert head.split() == ["NAME", "UUID", "STATE", "BRIDGES", "MAY", "BE", "FENCED", "BY"]
    assert first.split()[:4] == ["alpha", UUIDS[0], "running", "none"]
    assert first.endswith("  everybody with the key")
    assert second.split()[0] == "beta"


def test_groups(desk: Desk) -> None:
    desk.write(CUSTOM.replace("test:///default", desk.uri).replace('"beta"; } group', f'"{UUIDS[1]}"; }} group'))
    lines = listed(desk, "-f", str(desk.target)).stdout.splitlines()
    assert [re.split("none +", line)[1] for line in lines[1:]] == ["web", "web, unnamed-2"]
    found = json.loads(listed(desk, "-f", str(desk.target), "--json").stdout)
    assert [guest["groups"] for guest in found] == [["web"], ["web", "unnamed-2"]]
    desk.write(desk.target.read_text().replace("alpha", "omega"))
    assert listed(desk, "-f", str(desk.target)).stdout.splitlines()[1].endswith("  nobody")


def test_open_to_everybody(desk: Desk) -> None:
    none = 'hash = "none"; auth = "none";'
    text = CUSTOM.replace('hash = "sha512";', none).replace('state_dir = "/s";', 'allow_unauthenticated = "yes";')
    desk.write(re.sub("groups .*\n", "", text).replace("test:///default", desk.uri))
    assert listed(desk, "-f", str(desk.target)).stdout.splitlines()[1].endswith("  everybody")


def test_json(desk: Desk) -> None:
    desk.run(*desk.options)
    [alpha, _] = json.loads(listed(desk, "-f", str(desk.target), "--json").stdout)
    assert alpha == {
        **{"name": "alpha", "uuid": UUIDS[0], "state": "running", "persistent": True, "uri": desk.uri},
        **{"bridges": [], "macvtap": [], "unknown_networks": []},
        **{"hosts": None, "access": "everybody with the key", "groups": None},
    }


POOL = """fence_virtd { listener = "tcp"; backend = "cpg"; control_socket = "CONTROL"; }
listeners { tcp { key_file = "/k"; } } backends { cpg { uri = "URI"; } }
"""


def test_a_pool_without_its_daemon_is_told_and_what_is_here_shown(desk: Desk) -> None:
    desk.write(POOL.replace("URI", desk.uri).replace("CONTROL", str(desk.target.parent / "control")))
    done = listed(desk, "-f", str(desk.target))
    told = one_error(done, 4)
    assert "only the guests of this host are shown" in told and "no daemon answers" in told
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["NAME", "alpha", "beta"]
    done = listed(desk, "-f", str(desk.target), "--json")
    assert one_error(done, 4)
    assert [(one["name"], one["hosts"]) for one in json.loads(done.stdout)] == [("alpha", None), ("beta", None)]
    done = listed(desk, "-f", str(desk.target), "--uri", desk.uri)
    assert (done.exit, done.stderr) == (0, "")


def test_unreachable(desk: Desk) -> None:
    desk.run(*desk.options)
    done = listed(desk, "-f", str(desk.target), "--uri", NOWHERE)
    assert "cannot connect to libvirt" in one_error(done, 4)
    assert done.stdout == ""


def test_half_a_list_is_shown_and_an_error(desk: Desk) -> None:
    desk.run(*desk.options)
    done = listed(desk, "-f", str(desk.target), "--uri", NOWHERE, "--uri", desk.uri)
    assert one_error(done, 4)
    assert "alpha" in done.stdout


def test_no_guest_is_told(desk: Desk) -> None:
    desk.run(*desk.options)
    (desk.folder / "empty.xml").write_text("<node/>")
    done = listed(desk, "-f", str(desk.target), "--uri", f"test://{desk.folder}/empty.xml")
    assert (done.exit, done.stdout) == (0, "")
    assert "no guest at test://" in done.stderr


def test_a_faulty_configuration_is_an_error(desk: Desk) -> None:
    desk.write(CUSTOM.replace("unknown_guest", "unknown_gast"))
    assert "unknown_gast" in one_error(listed(desk, "-f", str(desk.target)))


def test_a_hung_libvirt(desk: Desk) -> None:
    desk.run(*desk.options)
    with hung_libvirt(desk.folder) as uri:
        done = listed(desk, "-f", str(desk.target), "--uri", uri)
    assert "no answer within 10 s" in one_error(done, 4)


def test_on_a_terminal_it_tells_whom_it_waits_for_and_takes_that_back(desk: Desk) -> None:
    desk.run(*desk.options)
    argv = [desk.vmfence.vmfence, "host", "list", "-f", str(desk.target)]
    with hung_libvirt(desk.folder) as uri, Terminal([*argv, "--uri", uri, "--uri", desk.uri]) as terminal:
        terminal.expect("asking libvirt \\.\\.\\.")
        terminal.expect("\r\x1b\\[KNAME ")
        status, text = terminal.end()
    assert status == 4
    assert "no answer within 10 s" in text
    assert "asking" not in text
    assert "\x1b" not in listed(desk, "-f", str(desk.target)).stderr


def test_an_empty_uri_is_a_usage_error(desk: Desk) -> None:
    """libvirt would take it for its default."""
    assert "it is empty" in one_error(listed(desk, "--uri", ""), 2)
