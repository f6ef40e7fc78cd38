"""docs/pool.md tried as it stands: its files on three hosts, and what it says of who answers and of a host that dies.

Only addresses, the bridge's name and what the lab itself needs are put in their place.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import pool
from lab.machine import PROGRAM
from lab.net import Guest
from lab.ours import CommandLine
from lab.pool import CONFIG, PoolHost, PoolLab
from lab.process import Result, run_client
from lab.reference import FENCE_XVM

pytestmark = pytest.mark.system
DOCUMENT = Path(__file__).parents[2] / "docs" / "pool.md"
COROSYNC, AUTHKEY = "/etc/corosync/corosync.conf", "/etc/corosync/authkey"
COMMAND, RECORD = "/usr/local/sbin/host-was-fenced", "/var/lib/hosts-fenced/hv3"
AGENT = CommandLine(Path(sys.executable).parent).agent
OK, FAILED, OFF = 0, 1, 2
# The lab has the hosts at other addresses, with another name of the link, and a corosync without a service manager.
IN_THE_LAB = {"192.0.2.": "10.88.0.", '"br0"': '"eth0"'}
LAB_COROSYNC = "system {\n    move_to_root_cgroup: no\n}\nlogging {\n    to_syslog: no\n}\n"
ANSWERED = r"request action={} guest={} .*via=multicast result="
SILENCE = "silent about 'g3'"
GIVES_UP_S = 5


def files() -> dict[str, str]:
    """Return the files that the document shows, by the path in their first lines."""
    blocks = re.findall(r"^```\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    named = {re.search(r"^# (/\S+)$", block, re.M): block for block in blocks}
    return {found[1]: block for found, block in named.items() if found}


def in_the_lab(text: str) -> str:
    for documented, here in IN_THE_LAB.items():
        text = text.replace(documented, here)
    return text


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[PoolLab]:
    """Three hosts with the document's files; guest gN runs at host N.  Beside them a machine that asks."""
    if missing := pool.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    shown, authkey = files(), b""

    def furnish(host: PoolHost) -> None:
        nonlocal authkey
        host.disk.write(COROSYNC, in_the_lab(shown[COROSYNC]) + LAB_COROSYNC, 0o644)
        if not authkey:
            host.disk.ok("corosync-keygen", "-l")
            authkey = host.disk.path(AUTHKEY).read_bytes()
        host.disk.write(AUTHKEY, authkey, 0o400)
        host.disk.write(CONFIG, in_the_lab(shown[CONFIG]), 0o600)
        host.disk.write(COMMAND, shown[COMMAND], 0o755)
        host.disk.ok("mkdir", "-p", str(Path(RECORD).parent))
        host.hypervisor.define(f"g{host.number}", start=True)

    with PoolLab(vmfence, tmp_path_factory.mktemp("howto"), ("vmfence",) * 3, furnish) as lab:
        lab.bridge.add_guest()
        yield lab


@pytest.fixture
def lab(built: PoolLab) -> PoolLab:
    """All hosts together, all guests running, nobody fenced."""
    built.restore()
    for number, host in built.hosts.items():
        host.disk.path(RECORD).unlink(missing_ok=True)
        if not host.hypervisor.is_on(f"g{number}"):
            host.hypervisor.power_on(f"g{number}")
    pool.wait_until(lambda: all(ask(built, "status", f"g{number}").exit == OK for number in built.hosts), 30, "guests")
    return built


def asker(lab: PoolLab) -> Guest:
    return lab.bridge.guests[-1]


def ask(lab: PoolLab, action: str, guest: str, client: str = "", limit_s: int = 30) -> Result:
    """Ask by multicast, as a guest on the network of all hosts."""
    words = ["-k", str(lab.folder / "key"), "-o", action, "-H", guest, "-t", str(limit_s)]
    return run_client(client or AGENT, words, netns=asker(lab))


def answers(lab: PoolLab, action: str, guest: str) -> list[int]:
    """Return how often each host has answered such a request so far."""
    wanted = re.compile(ANSWERED.format(action, guest))
    return [len(wanted.findall(host.daemon.log())) for host in lab.hosts.values()]


def lose(lab: PoolLab, number: int) -> float:
    """Have a host die, with its guest, and be missed by Corosync; return a time when it was alive."""
    alive_at = time.time()
    lab[number].daemon.kill()
    lab[number].corosync.kill()
    lab[number].hypervisor.power_off(f"g{number}")
    others = [other for other in lab.hosts if other != number]
    lab.wait_together(*others)
    pool.wait_until(lambda: all(corosyncs(lab[other]) == len(others) for other in others), 30, f"{number} missed")
    return alive_at


def corosyncs(host: PoolHost) -> int:
    """Return how many hosts its Corosync sees."""
    found = re.search(r"^Nodes:\s+(\d+)$", host.disk.run("corosync-quorumtool", "-s").stdout, re.M)
    return int(found[1]) if found else 0


def test_the_check_finds_nothing_wrong_with_the_pool(lab: PoolLab) -> None:
    for host in lab.hosts.values():
        shown = host.disk.run(PROGRAM, "host", "check", "--json").stdout
        assert '"code": "host-pool' not in shown.partition('"passed"')[0], shown
    listed = lab[2].disk.ok(PROGRAM, "host", "list")
    assert all(re.search(rf"\bg{number}\b.*\bhv{number}\b", listed) for number in lab.hosts), listed


@pytest.mark.parametrize("client", ["", FENCE_XVM], ids=["ours", "fence_xvm"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_of_three_hosts_that_hear_a_request_one_acts(lab: PoolLab, client: str, number: int) -> None:
    guest, power_actions = f"g{number}", ("reboot", "off", "on")
    before = {action: answers(lab, action, guest) for action in power_actions}
    was = lab[number].hypervisor.domain_id(guest)  # another with each start
    assert ask(lab, "reboot", guest, client).exit == OK, lab.log()
    assert ask(lab, "off", guest, client).exit == OK, lab.log()
    assert ask(lab, "status", guest, client).exit == OFF
    assert lab.truth(guest) == []
    assert ask(lab, "on", guest, client).exit == OK, lab.log()
    assert lab[number].hypervisor.domain_id(guest) == was + 2, lab.log()
    assert ask(lab, "status", guest, client).exit == OK
    # The line of a request is written when it has been answered.
    pool.wait_until(lambda: sum(answers(lab, "on", guest)) > sum(before["on"]), what="the last answer in the log")
    for action in power_actions:
        assert sum(answers(lab, action, guest)) == sum(before[action]) + 1, lab.log()


def test_a_host_cut_off_from_the_group_leaves_the_answer_to_others(lab: PoolLab) -> None:
    """It hears the request as well, cannot tell, and must not be the first to answer."""
    lab[3].corosync.kill()
    lab.wait_together(1, 2)
    for _ in range(5):
        assert ask(lab, "status", "g1").exit == OK, lab.log()
    assert ask(lab, "off", "g1").exit == OK, lab.log()


def test_a_host_that_dies_as_the_document_says(lab: PoolLab) -> None:
    alive_at = lose(lab, 3)
    assert ask(lab, "off", "g1").exit == OK  # the others' guests as before
    assert ask(lab, "off", "g3", limit_s=GIVES_UP_S).exit == FAILED
    checked = lab[1].disk.run(PROGRAM, "host", "check")
    assert "host-pool-away" in checked.stdout, checked
    for number in (1, 2):  # fenced, but before it left
        lab[number].disk.write(RECORD, f"{alive_at - 60:.0f}\n", 0o644)
    assert ask(lab, "off", "g3", limit_s=GIVES_UP_S).exit == FAILED
    for number in (1, 2):
        lab[number].disk.ok("sh", "-c", f"date +%s > {RECORD}")
    for action, code in (("off", OK), ("status", OFF), ("reboot", OK)):
        assert ask(lab, action, "g3").exit == code, lab.log()
    assert ask(lab, "on", "g3").exit == FAILED


def test_a_fence_meanwhile_is_answered_within_the_same_request(lab: PoolLab) -> None:
    """The agent repeats its request until its time is over."""
    silences = {number: lab[number].daemon.log().count(SILENCE) for number in (1, 2)}
    lose(lab, 3)
    answers: list[Result] = []
    thread = threading.Thread(target=lambda: answers.append(ask(lab, "off", "g3")))
    thread.start()
    pool.wait_until(
        lambda: all(lab[number].daemon.log().count(SILENCE) > before for number, before in silences.items()),
        what="hosts that cannot tell",
    )
    for number in silences:
        lab[number].disk.ok("sh", "-c", f"date +%s > {RECORD}")
    thread.join(60)
    assert [answer.exit for answer in answers] == [OK], lab.log()


def test_what_is_shown_is_what_is_tried() -> None:
    """Each file once; the units in the form that systemd reads."""
    shown = files()
    assert {COROSYNC, CONFIG, COMMAND} < shown.keys()
    assert all(DOCUMENT.read_text().count(f"\n# {path}\n") == 1 for path in shown)
    assert all(any(documented in text for text in shown.values()) for documented in IN_THE_LAB)
    units = [text for path, text in shown.items() if path.startswith("/etc/systemd/")]
    assert len(units) == 2
    assert all(re.fullmatch(r"#.*|\[\w+\]|\w+=.+|", line) for text in units for line in text.splitlines())
