"""The steps of ``vmfence host setup`` that give each guest its way to this host: a virtio port, serial line or vsock.

They change guests that somebody else may care for, so they are done only when that is asked for; else they are told as
commands.  Each guest stands apart: what one cannot take is no reason to leave out the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from vmfence.config.settings import SerialSettings, Settings
from vmfence.errors import BackendError, Unconfirmed
from vmfence.host import channels
from vmfence.host.backends import devices
from vmfence.host.channels import Stand
from vmfence.host.ground import Site
from vmfence.host.steps import State, Step
from vmfence.host.wishes import Wishes

_RESTART = "when it is shut off and started again; a reboot from within is not enough"
_BY_HAND = "give it that yourself, or run this again with --define"


def device_steps(wishes: Wishes, settings: Settings, site: Site) -> Iterator[Step]:
    """Yield a step for each guest and way, in the order of *site*."""
    if any(isinstance(one, SerialSettings) and one.mode == "vmchannel" for one in settings.listeners):
        why = "it is a part of user networking, which guests on a bridge do not have"
        yield Step("vmchannel", State.LEFT_OUT, "give each guest its VM channel yourself", why)
    if not site.has_vhost_vsock and any(way.kind == "vsock" for way in channels.ways(settings)):
        what = f"this host has no {channels.VHOST_VSOCK}, so no guest with a vsock device would start"
        why = "guests are left without until it has; have it loaded at boot as well"
        yield Step("vsock", State.BY_HAND, what, why, ("modprobe vhost_vsock",))
    for stand in site.stands:
        if stand.way.kind != "vsock" or site.has_vhost_vsock:
            yield _step(wishes, stand)


def _step(wishes: Wishes, stand: Stand) -> Step:
    guest, kind, what = stand.guest.name, stand.way.kind, str(stand.way)
    if stand.conflict:
        return Step(kind, State.BY_HAND, f"{guest}: {stand.conflict}")
    notes = () if stand.guest.stored is not None else ("it is transient: what it is given is gone when it ends",)
    if stand.lacks_stored or (stand.lacks_live and stand.is_stored is not True):
        commands = stand.commands()
        if wishes.define:
            act = partial(_define, stand)
            return Step(kind, State.PLANNED, f"{guest}: add a {what}", "", commands, notes, act, is_apart=True)
        return Step(kind, State.BY_HAND, f"{guest}: add a {what}", _BY_HAND, commands, notes)
    if stand.is_stored is None and stand.is_live is False:
        return Step(kind, State.BY_HAND, f"{guest}: lacks a {what}, and is transient: change what starts it")
    if stand.is_live is False:
        commands = stand.restart_commands()
        return Step(kind, State.BY_HAND, f"{guest}: has a {what} {_RESTART}", "", commands)
    return Step(kind, State.UNCHANGED, f"{guest}: has a {what}", notes=notes)


def _define(stand: Stand) -> str:
    """Add what is missing and see that it is there.  Raises VmfenceError when the guest will not have it."""
    reason = ""
    if stand.lacks_stored:
        devices.add_stored(stand.guest, stand.xml)
    if stand.lacks_live:
        try:
            devices.add_live(stand.guest, stand.xml)
        except BackendError as error:
            if stand.is_stored is None:
                raise
            reason = error.why
    after = channels.stand(stand.way, devices.read_one(stand.guest))
    what = f"{stand.guest.name}: has a {stand.way}"
    if after.is_stored is False or (stand.is_stored is None and not after.is_live):
        raise Unconfirmed(f"{stand.guest.name} has no {stand.way}", "libvirt took it, and does not show it")
    if after.is_live is False:
        return f"{what} {_RESTART}" + (f" ({reason})" if reason else "")
    return what
