"""Hosts of a pool that are lost, and fenced by a running Pacemaker: only then their guests are off.

The hosts are the nodes of a real cluster.  Host 2 asks Pacemaker's history, host 3 a command of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from lab import cluster
from lab.ours import CommandLine
from lab.pool_cluster import PoolCluster
from lab.waiting import wait_until

pytestmark = pytest.mark.system
OK, FAILED, OFF = 0, 1, 2
NOT_FENCED = "host 1 had it running when it left, and is not known to have been fenced"
COMMAND, FENCED_AT = "/usr/local/sbin/was-fenced", "/etc/fenced-at"
AGENT, MODE = "/usr/sbin/fence_lab", "/etc/fence-lab"
FENCED_WITHIN, STARTED_WITHIN, POLL = 60.0, 30.0, 0.2  # seconds
# Says yes if host 1 was fenced no earlier than it left.
COMMAND_TEXT = f"""#!/bin/sh
[ "$1 $2" = "n1 1" ] && [ -s {FENCED_AT} ] && [ "$(cat {FENCED_AT})" -ge "$3" ]
"""
# Fences nobody: it says what the file tells it to, and waits while that tells it nothing.
AGENT_TEXT = f"""#!/bin/sh
action=$(sed -n s/^action=//p)
case $action in
metadata)
    echo '<resource-agent name="fence_lab"><parameters><parameter name="port"/></parameters><actions>'
    for each in on off reboot status list monitor metadata; do echo "<action name='$each'/>"; done
    echo '</actions></resource-agent>' ;;
off | reboot)
    while [ ! -s {MODE} ]; do sleep 0.1; done
    exit "$(cat {MODE})" ;;
esac
"""
SUCCEEDS, FAILS, WAITS = "0", "1", ""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[PoolCluster]:
    """Three hosts; guest gN runs at host N."""
    if missing := cluster.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    with PoolCluster(vmfence, tmp_path_factory.mktemp("pool"), {3: f'fenced_command = "{COMMAND}";'}) as lab:
        for host in lab.hosts.values():
            host.node.disk.write(AGENT, AGENT_TEXT, 0o755)
            host.node.disk.write(COMMAND, COMMAND_TEXT, 0o755)
        yield lab


@pytest.fixture
def lab(built: PoolCluster) -> PoolCluster:
    """All together, nothing fenced, no device."""
    built.reset()
    command_says(built, None)
    return built


def add_device(lab: PoolCluster, agent: str = "fence_lab", mode: str = SUCCEEDS) -> None:
    """Make a device for all nodes and wait until it is started."""
    agent_says(lab, mode)
    node = lab[2].node
    node.ok("pcs", "stonith", "create", "fence", agent, f"pcmk_host_map={lab.cluster.host_map}")
    running = re.compile(r'<resource id="fence" .* failed="false" .* nodes_running_on="1"')
    wait_until(lambda: running.search(node.ok("crm_mon", "--output-as=xml")), STARTED_WITHIN, "device", POLL)


def agent_says(lab: PoolCluster, mode: str) -> None:
    for host in lab.hosts.values():
        host.node.disk.write(MODE, mode, 0o644)


def command_says(lab: PoolCluster, fenced_at: float | None) -> None:
    lab[3].node.disk.write(FENCED_AT, "" if fenced_at is None else f"{fenced_at:.0f}\n", 0o644)


def lose(lab: PoolCluster) -> None:
    """Have host 1 lose its power, with its guest."""
    lab[1].node.power_off()
    lab.wait_together(2, 3)
    assert not lab[1].has_running("g1")


def told(lab: PoolCluster) -> str:
    """Return Pacemaker's own text about the fencings of host 1."""
    return lab[2].node.run(["stonith_admin", "--history=n1", "--verbose"]).stdout


def history(lab: PoolCluster) -> set[str]:
    """Return how the fencings of host 1 ended, as Pacemaker's own text says."""
    return set(re.findall(r"\b(?:reboot|off)\b.*\bn1\b.*?\b(succe|fail|pending)", told(lab).lower()))


def wait_history(lab: PoolCluster, word: str) -> None:
    wait_until(lambda: word in history(lab), FENCED_WITHIN, f"{word} in the history", POLL)


def ask(lab: PoolCluster, by: int, action: str) -> int:
    """Ask for host 1's guest; an answer that it is off has to be true."""
    answer = lab[by].ask("-o", action, "-H", "g1").exit
    if action == "status" and answer == OFF or action == "off" and answer == OK:
        assert not lab[1].has_running("g1"), lab.log()
    return answer


def refuses(lab: PoolCluster, by: int) -> None:
    """It cannot be told, and the log says why."""
    before = lab[by].log().count(NOT_FENCED)
    assert [ask(lab, by, action) for action in ("status", "off", "reboot", "on")] == [FAILED] * 4, lab.log()
    assert lab[by].log().count(NOT_FENCED) == before + 4


def is_vouched_for(lab: PoolCluster, by: int) -> None:
    """It is off, and stays so until its host is back: for a cluster that reboots it, the off is the point.

    What was answered a moment ago, that its host was not fenced, is believed for another two seconds.
    """
    wait_until(lambda: ask(lab, by, "status") == OFF, STARTED_WITHIN, "a fencing that counts", POLL)
    assert [ask(lab, by, action) for action in ("off", "status", "reboot", "on")] == [OK, OFF, OK, FAILED], lab.log()


def test_the_guest_of_a_fenced_host_is_off(lab: PoolCluster) -> None:
    """The whole way: the host is fenced by our agent, through another daemon, and comes back."""
    add_device(lab, "fence_vmfence")
    before = lab.cluster.guest_id("n1")
    lose(lab)
    lab.cluster.wait_fenced("n1", before)
    wait_history(lab, "succe")
    is_vouched_for(lab, 2)
    refuses(lab, 3)  # its command is asked alone
    lab.cluster.wait_online()
    refuses(lab, 2)  # the host is back, its daemon is not: the guest may have been started there
    lab[1].start()
    lab.wait_together(1, 2, 3)
    assert [ask(lab, by, "status") for by in (1, 2, 3)] == [OFF] * 3
    assert ask(lab, 3, "on") == OK
    assert lab[1].has_running("g1")
    assert ask(lab, 2, "off") == OK


def test_a_host_that_cannot_be_fenced_is_not_guessed_at(lab: PoolCluster) -> None:
    """Without a device, until somebody confirms by hand that it is off."""
    lose(lab)
    refuses(lab, 2)
    refuses(lab, 3)
    lab[2].node.ok("stonith_admin", "--confirm=n1")
    wait_history(lab, "succe")
    is_vouched_for(lab, 2)


def test_a_fencing_counts_when_it_has_succeeded(lab: PoolCluster) -> None:
    add_device(lab, mode=WAITS)
    lose(lab)
    wait_history(lab, "pending")
    refuses(lab, 2)
    agent_says(lab, FAILS)
    wait_history(lab, "fail")
    refuses(lab, 2)
    agent_says(lab, SUCCEEDS)
    lab[3].node.run(["stonith_admin", "--reboot=n1"])
    wait_history(lab, "succe")
    is_vouched_for(lab, 2)


def test_a_fencing_before_the_host_left_does_not_count(lab: PoolCluster) -> None:
    """It was fenced, came back, and now its daemon alone is gone: its guest runs on."""
    add_device(lab)
    lose(lab)
    wait_history(lab, "succe")
    command_says(lab, time.time())
    is_vouched_for(lab, 2)
    is_vouched_for(lab, 3)
    lab[1].node.start()
    lab.cluster.wait_online()
    lab[1].start()
    lab[1].ensure("g1")
    lab.wait_together(1, 2, 3)
    wait_until(lambda: ask(lab, 2, "status") == OK, STARTED_WITHIN, "g1 known")
    before = told(lab)
    lab[1].kill_daemon()
    lab.wait_together(2, 3)
    assert "succe" in history(lab) and told(lab) == before  # nobody has fenced it again
    refuses(lab, 2)
    refuses(lab, 3)
    assert lab[1].has_running("g1")


def test_without_pacemaker_nobody_was_fenced(lab: PoolCluster) -> None:
    """The history cannot be asked where the fencer hangs, or has ended; a command still can."""
    add_device(lab)
    lab[2].node.ok("pkill", "-STOP", "-x", "pacemaker-fence")
    lose(lab)
    assert ask(lab, 2, "off") == FAILED
    lab[2].node.ok("pkill", "-KILL", "-x", "pacemakerd")
    lab[2].node.ok("pkill", "-KILL", "-x", "pacemaker-fence")
    refuses(lab, 2)
    refuses(lab, 3)
    command_says(lab, time.time())
    is_vouched_for(lab, 3)
