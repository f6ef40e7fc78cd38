"""The walkthrough's answers on a host with guests on a bridge: real fence_virtd (4.12.1) serves with the file, and so
does our daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.hypervisor import Hypervisor
from lab.net import BRIDGE, Bridge
from lab.ours import CommandLine
from lab.process import Result, run_client
from lab.reference import FENCE_VIRTD, FENCE_XVM, fence_virtd

pytestmark = pytest.mark.system
ON_BRIDGE, OFF, IN_NETWORK, BY_MACVTAP = "walk-01", "walk-02", "walk-03", "walk-04"
NETWORK = "<network><name>walk</name><forward mode='bridge'/><bridge name='br0'/></network>"
IN_NETWORK_XML = "<interface type='network'><source network='walk'/></interface>"
MACVTAP_XML = "<interface type='direct'><source dev='eth9'/></interface>"


class Host:
    """The host's namespace, its libvirt, and a folder for its configuration."""

    def __init__(self, vmfence: CommandLine, bridge: Bridge, hypervisor: Hypervisor, folder: Path) -> None:
        self.vmfence, self.bridge, self.hypervisor, self.folder = vmfence, bridge, hypervisor, folder
        self.config, self.key = folder / "fence_virt.conf", folder / "cluster" / "fence_xvm.key"
        # State that a daemon keeps belongs to the test; the wizard does not ask for it and must not lose it.
        self.config.write_text(f'fence_virtd {{ state_dir = "{folder}/state"; }}\n')

    def configure(self, *answers: str, options: tuple[str, ...] = ()) -> Result:
        words = ["host", "configure", "-f", str(self.config), *options]
        stdin = "".join(f"{answer}\n" for answer in answers)
        return self.vmfence.run(*words, netns=self.bridge.host, stdin=stdin)

    def walk(self) -> Result:
        """Give the answers of the walkthrough; the key is made on the way."""
        uri = self.hypervisor.uri
        return self.configure("multicast", "225.0.0.12", "1229", "br0", str(self.key), "y", "libvirt", uri, "y")

    def listed_by_guest(self) -> dict[str, str]:
        """Return what the real fence_xvm shows on a guest: name -> on or off."""
        words = ["-k", str(self.key), "-t", "20", "-o", "list"]
        done = run_client(FENCE_XVM, words, netns=self.bridge.guests[0])
        assert done.exit == 0, done
        return {line.split()[0]: line.split()[2] for line in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def guests(hypervisor: Hypervisor) -> Iterator[None]:
    """Guests on the bridge, in a libvirt network of that bridge, and on macvtap."""
    with hypervisor.connection() as connection:
        network = connection.networkDefineXML(NETWORK)
        hypervisor.define(ON_BRIDGE, start=True, bridge=BRIDGE)
        hypervisor.define(OFF, bridge=BRIDGE)
        hypervisor.define(IN_NETWORK, devices=IN_NETWORK_XML)
        hypervisor.define(BY_MACVTAP, devices=MACVTAP_XML)
        yield
        hypervisor.power_off(ON_BRIDGE)
        for name in (ON_BRIDGE, OFF, IN_NETWORK, BY_MACVTAP):
            hypervisor.undefine(name)
        network.undefine()


@pytest.fixture
def host(vmfence: CommandLine, bridge: Bridge, hypervisor: Hypervisor, guests: None, tmp_path: Path) -> Host:
    return Host(vmfence, bridge, hypervisor, tmp_path)


def test_the_real_daemon_serves_with_the_file(host: Host) -> None:
    done = host.walk()
    assert done.exit == 0, done
    with fence_virtd(host.config.read_text(), host.folder, host.bridge.host):
        found = host.listed_by_guest()
    assert (found[ON_BRIDGE], found[OFF]) == ("on", "off")


def test_our_daemon_serves_with_the_same_file(host: Host) -> None:
    assert host.walk().exit == 0
    with host.vmfence.daemon(host.config, host.bridge.host):
        found = host.listed_by_guest()
    assert (found[ON_BRIDGE], found[OFF]) == ("on", "off")


def test_the_real_wizard_takes_the_file_as_its_defaults(host: Host) -> None:
    assert host.walk().exit == 0
    done = run_client(FENCE_VIRTD, ["-c", "-f", str(host.config)], stdin="\n" * 9 + "n\n", netns=host.bridge.host)
    for shown in ("Interface [br0]: ", f"Key File [{host.key}]: ", f"Libvirt URI [{host.hypervisor.uri}]: "):
        assert shown in done.stdout, done.stdout


def test_our_wizard_takes_the_real_wizards_file(host: Host) -> None:
    host.config.unlink()
    host.key.parent.mkdir()
    host.key.write_bytes(bytes(range(256)))
    host.key.chmod(0o600)
    answers = ["y", "", "multicast", "225.0.0.12", "1229", "br0", str(host.key), "libvirt", host.hypervisor.uri, "y"]
    made = run_client(
        FENCE_VIRTD, ["-c", "-f", str(host.config)], stdin="\n".join([*answers, ""]), netns=host.bridge.host
    )
    assert made.exit == 0, made
    done = host.configure(options=("--yes",))
    assert (done.exit, done.stdout) == (0, f"{host.config}: nothing to change\n"), done


def test_bridges_are_offered_with_their_guests(host: Host) -> None:
    done = host.configure(options=("--uri", host.hypervisor.uri))
    assert done.exit == 1  # no answers
    done = host.configure("", "", "", options=("--uri", host.hypervisor.uri))
    assert f"br0 (guests: {ON_BRIDGE}, {OFF}, {IN_NETWORK})" in done.stderr, done.stderr
    assert "Interface [br0]: " in done.stderr


def test_unattended_it_chooses_the_bridge_of_the_guests(host: Host) -> None:
    options = ("--uri", host.hypervisor.uri, "--key-file", str(host.key), "--yes")
    done = host.configure(options=options)
    assert done.exit == 0, done
    assert 'interface = "br0";' in host.config.read_text()
    assert f"{BY_MACVTAP} is attached by macvtap only" in done.stderr


def test_tcp_is_offered_the_address_of_the_bridge(host: Host) -> None:
    options = ("--listener", "tcp", "--uri", host.hypervisor.uri, "--key-file", str(host.key), "--yes")
    assert host.configure(options=options).exit == 0
    assert 'address = "10.88.0.1";' in host.config.read_text()


def test_a_port_of_the_bridge_is_refused(host: Host) -> None:
    port = host.bridge.guests[0].port
    done = host.configure("", "", "", port, "lo", options=("--uri", host.hypervisor.uri))
    assert f"{port} is a port of br0" in done.stderr


def test_another_interface_is_doubted(host: Host) -> None:
    options = ("--interface", "lo", "--uri", host.hypervisor.uri, "--key-file", str(host.key), "--yes")
    done = host.configure(options=options)
    assert f"{ON_BRIDGE}, {OFF}, {IN_NETWORK} are attached to br0, not to lo, so not heard" in done.stderr


def test_host_list_shows_attachments(host: Host) -> None:
    assert host.walk().exit == 0
    listed = host.vmfence.run("host", "list", "-f", str(host.config), "--json", netns=host.bridge.host)
    found = {guest["name"]: guest for guest in json.loads(listed.stdout)}
    assert {name: found[name]["bridges"] for name in (ON_BRIDGE, OFF, IN_NETWORK, BY_MACVTAP)} == {
        **dict.fromkeys((ON_BRIDGE, OFF, IN_NETWORK), ["br0"]),
        BY_MACVTAP: [],
    }
    assert found[BY_MACVTAP]["macvtap"] == ["eth9"]
    assert (found[ON_BRIDGE]["state"], found[OFF]["state"]) == ("running", "shut off")
