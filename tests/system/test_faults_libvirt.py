"""libvirtd killed, restarted, paused, and calls to it lost: what is answered is true, and nothing is done late.

A libvirtd of the test's own with real QEMU guests.  Truth is asked from libvirt, past the daemon.  Named by defect
where the reference showed one (D8, D20, D21, D33).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab import wire
from lab.hypervisor import Hypervisor
from lab.middleman import CREATE_FLAGS, DESTROY, Fate, Middleman
from lab.ours import CommandLine
from lab.rig import Rig, hung, is_open, no_trace
from lab.waiting import wait_until

pytestmark = pytest.mark.system
ONE, TWO, THREE = "vm-01", "vm-02", "vm-03"
ALL = (ONE, TWO, THREE)


@pytest.fixture(scope="module")
def hypervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    with Hypervisor(tmp_path_factory.mktemp("libvirt")) as hypervisor:
        for name in ALL:
            hypervisor.define(name)
        yield hypervisor


@pytest.fixture(scope="module")
def rig(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory, hypervisor: Hypervisor) -> Iterator[Rig]:
    """A daemon straight on libvirtd."""
    with Rig(vmfence, tmp_path_factory.mktemp("rig"), uris=[hypervisor.uri]) as rig:
        yield rig


@pytest.fixture(scope="module")
def middleman(hypervisor: Hypervisor) -> Iterator[Middleman]:
    with Middleman(hypervisor) as middleman:
        yield middleman


@pytest.fixture(scope="module")
def indirect(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory, middleman: Middleman) -> Iterator[Rig]:
    """A daemon behind the middleman."""
    with Rig(vmfence, tmp_path_factory.mktemp("indirect"), uris=[middleman.uri]) as rig:
        yield rig


@pytest.fixture(autouse=True)
def all_on(hypervisor: Hypervisor) -> Iterator[None]:
    """Before every test libvirtd runs, and so do all guests."""
    for name in ALL:
        if not hypervisor.is_on(name):
            hypervisor.power_on(name)
    yield


def begin(rig: Rig, request: int, guest: str) -> wire.Peer:
    """Send a request and prove the key; the result is still to be read."""
    peer = rig.send(rig.packet(request, guest))
    assert peer.challenge(rig.secret)
    peer.respond(rig.secret)
    return peer


def result(peer: wire.Peer) -> int | None:
    """Read the result; None when the daemon hung up."""
    return next(iter(peer.read(1)), None)


def leave(peer: wire.Peer, rig: Rig) -> None:
    """Close the connection; the daemon has noticed when this returns."""
    peer.stream.close()
    pid, port = rig.daemon.pid, rig.port
    wait_until(lambda: not established(pid, port), what="the daemon closing its side, or at least knowing")


def established(pid: int, port: int) -> bool:
    """Tell whether the daemon holds a connection whose peer has not closed (proc(5), state 01)."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return any(int(row[1][-4:], 16) == port and row[3] == "01" for row in rows)


# D33, D21: libvirtd is gone


def test_d33_monitor_fails_without_libvirtd(rig: Rig, hypervisor: Hypervisor) -> None:
    assert rig.ask(wire.MONITOR) == wire.DONE
    hypervisor.kill()
    try:
        assert rig.ask(wire.MONITOR) == wire.FAILED
        assert rig.ask(wire.STATUS, ONE) == wire.FAILED
        assert rig.ask(wire.LIST) == wire.FAILED
        assert rig.fence("monitor").exit == 1
        assert rig.fence("status", ONE).exit == 1
    finally:
        hypervisor.start()
    assert rig.ask(wire.MONITOR) == wire.DONE
    assert rig.ask(wire.STATUS, ONE) == wire.DONE


@pytest.mark.parametrize("action", ["off", "reboot"])
def test_d21_no_stale_fence_when_libvirtd_comes_back(rig: Rig, hypervisor: Hypervisor, action: str) -> None:
    """The experiment of D21: libvirtd dead, the agent gives up, libvirtd back: the guest was not touched."""
    before = hypervisor.domain_id(ONE)
    hypervisor.kill()
    try:
        assert rig.fence(action, ONE, "-t", "2").exit == 1
    finally:
        hypervisor.start()
    assert rig.ask(wire.OFF, TWO) == wire.DONE  # the daemon is at work again
    assert hypervisor.domain_id(ONE) == before


def test_d21_no_stale_fence_when_libvirtd_wakes(rig: Rig, hypervisor: Hypervisor) -> None:
    """Paused instead of dead: calls are accepted by the kernel, and would all be carried out at once."""
    before = hypervisor.domain_id(ONE)
    hypervisor.pause()
    try:
        assert rig.fence("off", ONE, "-t", "2").exit == 1
    finally:
        hypervisor.resume()
    wait_until(lambda: rig.ask(wire.OFF, TWO) == wire.DONE, 30, "the daemon at work again")
    assert hypervisor.domain_id(ONE) == before


def test_a_power_action_waits_for_libvirtd_to_come_back(rig: Rig, hypervisor: Hypervisor) -> None:
    """As a package update restarts it: the request that comes meanwhile is carried out, for its client waits."""
    hypervisor.kill()
    try:
        with hung(begin(rig, wire.OFF, ONE)) as asking:
            assert rig.ask(wire.STATUS, TWO) == wire.FAILED
        asking = begin(rig, wire.OFF, TWO)
    finally:
        hypervisor.start()
    with asking:
        assert result(asking) == wire.DONE
    assert not hypervisor.is_on(TWO)
    assert hypervisor.is_on(ONE)


@pytest.mark.parametrize("request_code", [wire.OFF, wire.REBOOT, wire.STATUS], ids=["off", "reboot", "status"])
def test_libvirtd_killed_during_a_request(rig: Rig, hypervisor: Hypervisor, request_code: int) -> None:
    """Whatever the moment: the answer is the truth, or a failure."""
    before = hypervisor.domain_id(ONE)
    with begin(rig, request_code, ONE) as asking:
        hypervisor.kill()
        hypervisor.start()
        answer = result(asking)
    check_truth(hypervisor, request_code, answer, before)
    assert rig.ask(wire.OFF, TWO) == wire.DONE
    assert not hypervisor.is_on(TWO)
    assert no_trace(rig.daemon.log())


def check_truth(hypervisor: Hypervisor, request_code: int, answer: int | None, before: int) -> None:
    if request_code == wire.STATUS:
        assert answer in (wire.DONE, wire.FAILED)
    elif answer == wire.DONE and request_code == wire.OFF:
        assert not hypervisor.is_on(ONE)
    elif answer == wire.DONE:
        assert hypervisor.domain_id(ONE) != before
    else:
        assert answer == wire.FAILED


def test_libvirtd_paused_during_a_request(rig: Rig, hypervisor: Hypervisor) -> None:
    """It fails in time or succeeds truthfully; the next one works."""
    hypervisor.hang(ONE)  # keeps libvirtd at it, so that the pause falls within
    with begin(rig, wire.OFF, ONE) as asking:
        wait_until(lambda: hypervisor.is_told_to_end(ONE), what="libvirtd at work")
        hypervisor.pause()
        try:
            assert rig.ask(wire.STATUS, TWO) == wire.FAILED
        finally:
            hypervisor.resume()
        answer = result(asking)
    assert answer in (wire.DONE, wire.FAILED)
    if answer == wire.DONE:
        assert not hypervisor.is_on(ONE)
    wait_until(lambda: rig.ask(wire.OFF, TWO) == wire.DONE, 30, "the next request")
    assert not hypervisor.is_on(TWO)
    wait_until(lambda: not hypervisor.is_on(ONE), 30, "end of the hung guest")


# D20: a guest that obeys nothing


def test_d20_a_hung_guest_delays_no_other(rig: Rig, hypervisor: Hypervisor) -> None:
    """Off, reboot and status of other guests, and monitor, while libvirt fights with the hung one for 10 s.

    A list holds the hung guest too: libvirtd (9.0) does not answer it before the fight is over.
    """
    hypervisor.hang(ONE)
    before = hypervisor.domain_id(THREE)
    with begin(rig, wire.OFF, ONE) as slow:
        assert rig.ask(wire.OFF, TWO) == wire.DONE
        assert rig.ask(wire.REBOOT, THREE) == wire.DONE
        assert rig.ask(wire.STATUS, TWO) == wire.IS_OFF
        assert rig.ask(wire.MONITOR) == wire.DONE
        assert is_open(slow), "the hung guest was off before: that shows nothing"
        assert not hypervisor.is_on(TWO)
        assert hypervisor.domain_id(THREE) not in (before, -1)
        assert result(slow) == wire.DONE
    assert not hypervisor.is_on(ONE)


def test_d20_many_actions_at_once(rig: Rig, hypervisor: Hypervisor) -> None:
    """Three reboots begun together are all finished, each guest has a new life."""
    before = {name: hypervisor.domain_id(name) for name in ALL}
    with ExitStack() as stack:
        peers = [stack.enter_context(begin(rig, wire.REBOOT, name)) for name in ALL]
        assert [result(peer) for peer in peers] == [wire.DONE] * 3
    for name in ALL:
        assert hypervisor.domain_id(name) not in (before[name], -1)


# D8: a guest that does not come back


def test_d08_a_start_that_fails_after_the_off_is_told(vmfence: CommandLine, rig: Rig, hypervisor: Hypervisor) -> None:
    """The firmware is gone: off is confirmed, so the cluster hears success; log and history hear of the failure."""
    firmware = hypervisor.folder / "halt.rom"
    content = firmware.read_bytes()
    firmware.unlink()
    try:
        assert rig.fence("reboot", ONE).exit == 0
        assert not hypervisor.is_on(ONE)
        rig.wait_told("is off and could not be started again")
        history = vmfence.run("host", "history", "-f", str(rig.config), "--json")
        assert history.exit == 0
        assert "the start failed" in history.stdout
        assert rig.fence("on", ONE).exit == 1  # on is no off: its failure is one
    finally:
        firmware.write_bytes(content)
    assert rig.fence("on", ONE).exit == 0
    assert hypervisor.is_on(ONE)


def test_d08_off_and_reboot_of_a_transient_guest(rig: Rig, hypervisor: Hypervisor) -> None:
    """libvirt forgets it when it ends: off is still confirmed, and reboot brings it back."""
    hypervisor.create_transient("vm-t")
    before = hypervisor.domain_id("vm-t")
    assert rig.ask(wire.REBOOT, "vm-t") == wire.DONE
    assert hypervisor.domain_id("vm-t") not in (before, -1)
    assert rig.ask(wire.OFF, "vm-t") == wire.DONE
    assert "vm-t" not in hypervisor.names()
    assert rig.ask(wire.STATUS, "vm-t") == wire.FAILED, "nobody knows it: it may run elsewhere"


def test_a_paused_guest_is_really_ended(rig: Rig, hypervisor: Hypervisor) -> None:
    hypervisor.suspend(ONE)
    assert rig.ask(wire.STATUS, ONE) == wire.DONE
    assert rig.ask(wire.OFF, ONE) == wire.DONE
    assert hypervisor.state(ONE)[0] == 5


def test_a_guest_that_vanishes_meanwhile(rig: Rig, hypervisor: Hypervisor) -> None:
    """Undefined by somebody: unknown, never off."""
    hypervisor.define("vm-gone")
    assert rig.ask(wire.STATUS, "vm-gone") == wire.IS_OFF
    hypervisor.undefine("vm-gone")
    assert rig.ask(wire.STATUS, "vm-gone") == wire.FAILED
    assert rig.ask(wire.OFF, "vm-gone") == wire.FAILED


# Single calls lost between daemon and libvirtd


def test_a_destroy_that_was_lost_is_sent_again(indirect: Rig, middleman: Middleman, hypervisor: Hypervisor) -> None:
    middleman.spoil(DESTROY, Fate.LOST)
    with begin(indirect, wire.OFF, ONE) as asking:
        assert result(asking) == wire.DONE
    assert middleman.caught.is_set()
    assert not hypervisor.is_on(ONE)


def test_a_destroy_whose_answer_was_lost_is_read_back(
    indirect: Rig, middleman: Middleman, hypervisor: Hypervisor
) -> None:
    middleman.spoil(DESTROY, Fate.UNANSWERED)
    with begin(indirect, wire.OFF, ONE) as asking:
        assert result(asking) == wire.DONE
    assert middleman.caught.is_set()
    assert not hypervisor.is_on(ONE)


def test_libvirt_away_between_look_up_and_destroy(indirect: Rig, middleman: Middleman, hypervisor: Hypervisor) -> None:
    """It comes back while the client still waits: the off is carried out and confirmed."""
    middleman.spoil(DESTROY, Fate.HELD)
    with begin(indirect, wire.OFF, ONE) as asking:
        wait_until(middleman.caught.is_set, what="the call")
        middleman.down()
        assert hypervisor.is_on(ONE)
        assert indirect.ask(wire.STATUS, TWO) == wire.FAILED
        assert is_open(asking)
        middleman.up()
        assert result(asking) == wire.DONE
    assert not hypervisor.is_on(ONE)


@pytest.mark.parametrize("request_code", [wire.OFF, wire.REBOOT], ids=["off", "reboot"])
@pytest.mark.parametrize("away", [False, True], ids=["cut", "away"])
def test_d21_nothing_is_begun_anew_for_a_client_that_left(
    indirect: Rig, middleman: Middleman, hypervisor: Hypervisor, request_code: int, away: bool
) -> None:
    """The call has not reached libvirt when the client leaves, then its connection breaks: it is not sent again."""
    before = hypervisor.domain_id(ONE)
    middleman.spoil(DESTROY, Fate.HELD)
    asking = begin(indirect, request_code, ONE)
    wait_until(middleman.caught.is_set, what="the call")
    sent = middleman.calls.count(DESTROY)
    leave(asking, indirect)
    if away:
        middleman.down()
        assert indirect.ask(wire.STATUS, TWO) == wire.FAILED
        middleman.up()
    else:
        middleman.cut()
    # Actions on one guest are in order: this one is answered when the one before is over.
    with begin(indirect, wire.ON, ONE) as after:
        assert result(after) == wire.DONE
    assert middleman.calls.count(DESTROY) == sent
    assert hypervisor.domain_id(ONE) == before


def test_a_hung_call_delays_no_other_guest(indirect: Rig, middleman: Middleman, hypervisor: Hypervisor) -> None:
    middleman.spoil(DESTROY, Fate.HELD)
    with begin(indirect, wire.OFF, ONE) as slow:
        wait_until(middleman.caught.is_set, what="the call")
        assert indirect.ask(wire.OFF, TWO) == wire.DONE
        assert indirect.ask(wire.STATUS, ONE) == wire.DONE
        assert is_open(slow)
        middleman.release()
        assert result(slow) == wire.DONE
    assert not hypervisor.is_on(ONE) and not hypervisor.is_on(TWO)


def test_actions_on_one_guest_are_one_after_the_other(
    indirect: Rig, middleman: Middleman, hypervisor: Hypervisor
) -> None:
    """While an off is under way no other action on that guest reaches libvirt; states can be asked."""
    middleman.spoil(DESTROY, Fate.HELD)
    with begin(indirect, wire.OFF, ONE) as off:
        wait_until(middleman.caught.is_set, what="the call")
        before = power_calls(middleman)
        with begin(indirect, wire.REBOOT, ONE) as second:
            assert indirect.ask(wire.STATUS, ONE) == wire.DONE
            assert indirect.ask(wire.STATUS, TWO) == wire.DONE
            assert power_calls(middleman) == before
            assert is_open(second)
            middleman.release()
            assert result(off) == wire.DONE
            assert result(second) == wire.DONE
    assert hypervisor.is_on(ONE)


def power_calls(middleman: Middleman) -> int:
    """Return how many calls reached libvirtd that switch a guest."""
    return sum(call in (DESTROY, CREATE_FLAGS) for call in middleman.calls)


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED], ids=["lost", "unanswered"])
@pytest.mark.parametrize("request_code", [wire.ON, wire.REBOOT], ids=["on", "reboot"])
def test_a_start_whose_call_or_answer_was_lost(
    indirect: Rig, middleman: Middleman, hypervisor: Hypervisor, request_code: int, fate: Fate
) -> None:
    if request_code == wire.ON:
        hypervisor.power_off(ONE)
    before = hypervisor.domain_id(ONE)
    middleman.spoil(CREATE_FLAGS, fate)
    with begin(indirect, request_code, ONE) as asking:
        assert result(asking) == wire.DONE
    assert middleman.caught.is_set()
    assert hypervisor.is_on(ONE) and hypervisor.domain_id(ONE) != before
