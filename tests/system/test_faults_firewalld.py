"""Faults of a real firewalld: a booted machine whose bridge is in zone libvirt, which rejects what it does not list.

Each fault is told first by ``host check``; what it prints as the remedy is pasted into a shell of the machine, and then
the check is green and a guest's real fence_xvm is answered.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from test_host_check import Host, Mistake

from lab import machine as lab_machine
from lab.hypervisor import Hypervisor
from lab.machine import PROGRAM, Machine
from lab.net import Bridge
from lab.ours import CommandLine
from lab.process import Result
from lab.requirements import SYSTEM_PATH

LACKS = [*lab_machine.missing(), *([] if shutil.which("firewalld", path=SYSTEM_PATH) else ["firewalld"])]
pytestmark = [
    pytest.mark.system,
    pytest.mark.long,
    pytest.mark.skipif(bool(LACKS), reason=f"missing: {', '.join(LACKS)}"),
]
GUEST = "10.88.0.11"
PATIENT = ("-t", "15")  # where an answer is expected
MISTAKES: dict[str, tuple[str, str, Mistake]] = {}


def mistake(code: str, severity: str = "error") -> Any:
    """Enter a mistake into the table: *code* is what must be found first with this *severity*."""

    def enter(make: Mistake) -> Mistake:
        MISTAKES[make.__name__] = (code, severity, make)
        return make

    return enter


class FirewalldHost(Host):
    """Without a limit of time: each firewall-cmd starts an interpreter, here and on the machine beside."""

    def check(self, *options: str, prefix: tuple[str, ...] = ()) -> Result:
        """Run the check; whatever it finds, it ends without a traceback."""
        done = self.machine.run(*prefix, PROGRAM, "host", "check", *options)
        assert "Traceback" not in done.stderr, done
        return done


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[Host]:
    """A machine with firewalld that ``host setup`` has opened, with all that firewalld keeps."""
    folder = tmp_path_factory.mktemp("firewalld")
    with Bridge(guests=1) as bridge, Hypervisor(folder / "libvirt", bridge.host) as hypervisor:
        hypervisor.define("vm-01", bridge="br0", start=True)
        with Machine(folder / "machine", bridge.host, hypervisor) as machine:
            machine.ok("systemctl", "disable", "fence_virtd")
            machine.ok("systemctl", "start", "firewalld")
            # Kept as well: after a reload libvirt binds its bridges anew, and that libvirt has no network here.
            for where in ([], ["--permanent"]):
                machine.ok("firewall-cmd", *where, "--zone=libvirt", "--change-interface=br0")
            yield FirewalldHost(machine, bridge, hypervisor, vmfence)


@pytest.fixture
def host(ready: Host) -> Iterator[Host]:
    """The machine, green; what the test told firewalld is forgotten afterwards."""
    machine = ready.machine
    machine.ok("cp", "-a", "/etc/firewalld", "/run/before")
    yield ready
    machine.ok("rm", "-rf", "/etc/firewalld")
    machine.ok("mv", "/run/before", "/etc/firewalld")
    tell(ready, "--reload")


def tell(host: Host, *commands: str) -> None:
    """Give firewall-cmd these command lines; an underscore stands for a blank within a word."""
    for command in commands:
        host.machine.ok("firewall-cmd", *(word.replace("_", " ") for word in command.split()))


def close(host: Host, zone: str, *, now: bool = True, later: bool = True) -> None:
    """Let *zone* stop us: now, and as firewalld keeps it."""
    for item in ("service=vmfence", "port=1229/udp", "protocol=igmp"):
        for where in ([""] if now else []) + (["--permanent "] if later else []):
            tell(host, f"{where}--zone={zone} --remove-{item}")


@mistake("host-firewall")
def zone_libvirt_rejects(host: Host, undo: ExitStack, folder: Path) -> None:
    close(host, "libvirt")


@mistake("host-firewall")
def zone_libvirt_rejects_now(host: Host, undo: ExitStack, folder: Path) -> None:
    """What is kept would do, and somebody has closed it for the time being."""
    close(host, "libvirt", later=False)


@mistake("host-firewall", "warning")
def zone_libvirt_will_reject(host: Host, undo: ExitStack, folder: Path) -> None:
    """Opened by hand, and not kept."""
    tell(host, "--zone=libvirt --add-port=1229/udp", "--zone=libvirt --add-protocol=igmp")
    close(host, "libvirt", now=False)


@mistake("host-firewall")
def bridge_of_its_own_in_zone_public(host: Host, undo: ExitStack, folder: Path) -> None:
    tell(host, "--permanent --zone=public --change-interface=br0", "--zone=public --change-interface=br0")


@mistake("host-firewall")
def tcp_open_instead_of_udp(host: Host, undo: ExitStack, folder: Path) -> None:
    """What some guides say."""
    close(host, "libvirt")
    tell(host, "--zone=libvirt --add-port=1229/tcp", "--permanent --zone=libvirt --add-port=1229/tcp")


@mistake("host-firewall", "warning")
def kept_zone_for_the_guest_will_drop(host: Host, undo: ExitStack, folder: Path) -> None:
    tell(host, f"--permanent --zone=drop --add-source={GUEST}")


@mistake("host-firewall", "warning")
def kept_rich_rule_will_drop(host: Host, undo: ExitStack, folder: Path) -> None:
    rule = f"rule_family=ipv4_source_address={GUEST}_port_port=1229_protocol=udp_drop"
    tell(host, f"--permanent --zone=libvirt --add-rich-rule={rule}")


@mistake("host-firewall")
def zone_for_the_guest_drops(host: Host, undo: ExitStack, folder: Path) -> None:
    """This host's own request comes through all the same."""
    tell(host, f"--zone=drop --add-source={GUEST}")


@mistake("host-firewall")
def rich_rule_drops(host: Host, undo: ExitStack, folder: Path) -> None:
    rule = f"rule_family=ipv4_source_address={GUEST}_port_port=1229_protocol=udp_drop"
    tell(host, *(f"{where}--zone=libvirt --add-rich-rule={rule}" for where in ("", "--permanent ")))


@mistake("host-firewall", "warning")
def kept_policy_will_reject(host: Host, undo: ExitStack, folder: Path) -> None:
    tell(host, "--permanent --new-policy=p")
    for item in ("add-ingress-zone=libvirt", "add-egress-zone=HOST", "set-priority=-10", "set-target=REJECT"):
        tell(host, f"--permanent --policy=p --{item}")


def made(host: Host, folder: Path, name: str) -> dict[str, Any]:
    """Make the mistake *name*; return what is found, of which its code is the first."""
    code, severity, make = MISTAKES[name]
    with ExitStack() as undo:
        make(host, undo, folder)
        found = host.judged()
    assert codes(found, severity)[:1] == [code] and found["worst"] == severity, found["findings"]
    fault: dict[str, Any] = next(one for one in found["findings"] if one["code"] == code)
    return fault


def codes(found: dict[str, Any], *severities: str) -> list[str]:
    return [one["code"] for one in found["findings"] if one["severity"] in severities]


def worries(host: Host, folder: Path) -> list[object]:
    """Return what the check finds, now and after firewalld's next reload, and whether a guest had no answer."""
    found: list[object] = []
    for step in ("--state", "--reload"):
        tell(host, step)
        judged = host.judged()["findings"]
        found += [f"{step}: {one}" for one in judged if one["severity"] != "note"]
        found += [f"{step}: no answer"] if host.ask(folder, None, *PATIENT) else []
    return found


def paste(host: Host, remedy: str) -> None:
    """Run *remedy* as somebody would who pastes it into a shell of the machine."""
    host.machine.ok("sh", "-c", remedy)


@pytest.mark.parametrize("name", MISTAKES)
def test_each_fault_is_found_first_and_its_remedy_mends_it(host: Host, tmp_path: Path, name: str) -> None:
    assert worries(host, tmp_path) == []
    is_now = MISTAKES[name][1] == "error"
    fault = made(host, tmp_path, name)
    if not is_now:  # it is as it was told: a guest is heard until the next reload
        assert host.ask(tmp_path, None, *PATIENT) == 0
        tell(host, "--reload")
    assert host.ask(tmp_path) != 0
    assert fault["subject"] == "firewalld"
    paste(host, fault["remedy"])
    if not is_now:  # the remedy is about the next reload, as the fault was
        tell(host, "--reload")
    assert worries(host, tmp_path) == []


def test_it_is_mended_by_fix(host: Host, tmp_path: Path) -> None:
    made(host, tmp_path, "zone_libvirt_rejects")
    done = host.check("--fix", "--yes")
    assert done.exit == 0 and "host setup" in done.stderr and ": done" in done.stderr, done
    assert "it opens: " in done.stderr and "port 1229/udp" in done.stderr and "of zone libvirt" in done.stderr, done
    assert worries(host, tmp_path) == []


def test_a_rule_about_a_service_with_other_ports_is_no_fault(host: Host, tmp_path: Path) -> None:
    tell(host, "--permanent --zone=libvirt --add-rich-rule=rule_service_name=ssh_reject")
    assert [one for one in host.judged()["findings"] if one["severity"] != "note"] == []
    assert worries(host, tmp_path) == []
    tell(host, "--permanent --new-service=ours", "--permanent --service=ours --add-port=1200-1300/udp")
    tell(host, "--permanent --zone=libvirt --add-rich-rule=rule_service_name=ours_reject")
    (fault,) = (one for one in host.judged()["findings"] if one["severity"] != "note")
    assert fault["code"] == "host-firewall"
    paste(host, fault["remedy"])
    assert worries(host, tmp_path) == []
