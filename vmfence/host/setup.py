"""``vmfence host setup``: what has to be done on this host, step by step.

plan() is pure: from what was chosen and found to a list of steps, of which those that are done already have nothing to
do, so a second run changes nothing and a run after a failure goes on where it stopped.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from vmfence import keyfile
from vmfence.config.settings import (
    SEARCH_PATHS,
    STATE_DIR,
    MulticastSettings,
    SerialSettings,
    Settings,
    TcpSettings,
    VsockSettings,
)
from vmfence.errors import VmfenceError
from vmfence.host import channels, configure, ground, selfcheck, unit
from vmfence.host.choice import Choice
from vmfence.host.device_steps import device_steps
from vmfence.host.execstart import Start
from vmfence.host.ground import KeyFacts, Site
from vmfence.host.steps import Outcome, State, Step, obstacle
from vmfence.host.wishes import Wishes
from vmfence.packetfilter import firewall
from vmfence.packetfilter.firewall import Firewall

_NEXT = ("vmfence", "guest", "check")


def plan(wishes: Wishes, choice: Choice, site: Site) -> tuple[Step, ...]:
    """Return all steps in their order."""
    settings = choice.settings
    is_new = choice.text is not None or not all(key.exists for key in site.keys)
    return (
        Step("libvirt", State.CHOSEN, *choice.hypervisor),
        Step("listener", State.CHOSEN, *choice.listener, notes=choice.doubts),
        *(_key_step(key, choice) for key in site.keys),
        _config_step(wishes, choice, site),
        *_firewall_steps(wishes, site),
        *_rival_steps(wishes, site),
        _service_step(wishes, settings, site, is_new),
        *device_steps(wishes, settings, site),
        _check_step(wishes, settings, site),
    )


def next_commands(settings: Settings) -> tuple[str, ...]:
    """Return what to type next on a guest of which condition() is true."""
    for one in settings.listeners:
        if isinstance(one, MulticastSettings):
            return _for_each_key(_NEXT, one, settings)
        if isinstance(one, TcpSettings):
            address = "10.0.2.2" if one.address.startswith("127.") else one.address
            return _for_each_key((*_NEXT, "-T", address), one, settings, "address")
        if isinstance(one, VsockSettings):
            return _for_each_key((*_NEXT, "-S"), one, settings)
    way = next(iter(channels.ways(settings)), None)
    return (shlex.join([*_NEXT, *(("-D", channels.agent_device(way)) if way else ("-A", "10.0.2.179"))]),)


def condition(settings: Settings) -> str:
    """Return what must be so on a guest before next_commands() work there."""
    keys = " and ".join(ground.key_files(settings))
    needs = [f"that has the same key ({keys})"] if keys else []
    if any(group.key_file for group in settings.groups or ()):
        of_groups = ", ".join(f"{group.label}: {group.key_file or keys}" for group in settings.groups or ())
        needs = [f"that has the key of its group ({of_groups})"]
    if isinstance(settings.listeners[0], (SerialSettings, VsockSettings)):
        needs.append("that has its device")
    if any(isinstance(one, MulticastSettings) for one in settings.listeners):
        ports = {one.port for one in settings.listeners if isinstance(one, MulticastSettings)}
        needs.append(f"whose firewall lets in TCP {' and '.join(map(str, sorted(ports)))}")
    return " and ".join(needs)


def _for_each_key(
    words: tuple[str, ...], one: MulticastSettings | TcpSettings | VsockSettings, settings: Settings, *left_out: str
) -> tuple[str, ...]:
    """Return the command *words* with the options for *one*, once for each key that the access rules know."""
    keys = [one.key_file] if settings.groups is None else [group.key_file or one.key_file for group in settings.groups]
    wanted = [replace(one, key_file=key) for key in dict.fromkeys(keys or [one.key_file])]
    return tuple(shlex.join([*words, *_unusual(each, *left_out)]) for each in wanted)


def _unusual(one: MulticastSettings | TcpSettings | VsockSettings, *left_out: str) -> list[str]:
    """Return the agent's options for what is not as agents expect it."""
    family = "" if isinstance(one, VsockSettings) else one.family
    usual = MulticastSettings(address="ff05::3:1") if family == "ipv6" else MulticastSettings()
    options = {"address": "-a", "port": "-p", "key_file": "-k"}
    words = ["-i", "ipv6"] if family == "ipv6" and "address" not in left_out else []
    for name, option in options.items():
        if name not in left_out and getattr(one, name, getattr(usual, name)) != getattr(usual, name):
            words += [option, str(getattr(one, name))]
    words += ["-c", str(one.hash)] if one.hash > usual.hash else []
    return words + (["-C", str(one.auth)] if one.auth != usual.auth else [])


def _key_step(key: KeyFacts, choice: Choice) -> Step:
    if key.fault is not None:
        return obstacle("key", f"{key.path} cannot be used", key.fault)
    if key.exists:
        notes = tuple(map(str, key.weaknesses))
        return Step("key", State.UNCHANGED, f"{key.path}, SHA256 {key.fingerprint}", notes=notes)
    why = "there is none, and it is what guests prove themselves with"
    lost = "the configuration names it and it was gone: is the path right? Guests that have another are refused now"
    notes = (lost,) if choice.text is None else ()
    return Step("key", State.PLANNED, f"make {key.path}", why, notes=notes, act=partial(_make_key, key.path))


def _make_key(path: str) -> str:
    return f"made {path}, SHA256 {keyfile.fingerprint(keyfile.create(path))}"


def _config_step(wishes: Wishes, choice: Choice, site: Site) -> Step:
    path = choice.settings.path
    if choice.text is None:
        is_old = path == SEARCH_PATHS[1]
        what = f"{path} is taken over from fence_virtd as it is" if is_old else f"{path} is used as it is"
        is_odd = path not in SEARCH_PATHS or not site.is_found_unnamed
        why = "the service has it" if wishes.config is None and is_odd else ""
        notes = tuple(str(warning) for warning in choice.settings.warnings)
        return Step("configuration", State.UNCHANGED, what, why, notes=notes)
    if site.config_fault is not None:
        return obstacle("configuration", f"cannot write {path}", site.config_fault)
    act = partial(_write_config, path, choice.text)
    why = "there is none in use"
    return Step("configuration", State.PLANNED, f"write {path}", why, act=act)


def _write_config(path: str, text: bytes) -> str:
    configure.replace_file(path, None, text)
    return f"wrote {path}"


def _firewall_steps(wishes: Wishes, site: Site) -> Iterator[Step]:
    wanted, found = ", ".join(map(str, site.openings)), site.firewall
    if not wishes.firewall:
        yield Step("firewall", State.LEFT_OUT, f"needs to let in {wanted or 'nothing'}", "--no-firewall")
        return
    if found.zones:
        yield _firewalld_step(wanted, found)
    if found.rules:
        why = "its rules may stop requests, and belong to somebody else; keep the rule over the next boot as well"
        yield Step("firewall", State.BY_HAND, f"let in {wanted}", why, found.rules, found.notes)
    elif found.notes:
        why = "it cannot be seen whether a firewall stops requests" if found.doubts else "firewalld may stop it later"
        yield Step("firewall", State.BY_HAND, f"let in {wanted}", why, notes=found.notes)
    elif not found.zones:
        yield Step("firewall", State.UNCHANGED, "nothing on this host stops requests" if wanted else "not needed")


def _firewalld_step(wanted: str, found: Firewall) -> Step:
    zones = " and ".join(dict.fromkeys(found.zones))
    if not found.commands:
        return Step("firewall", State.UNCHANGED, f"firewalld zone {zones} lets in {wanted}")
    act = partial(_open_firewall, found.commands, f"firewalld zone {zones} lets in {wanted}")
    commands = tuple(map(shlex.join, found.commands))
    return Step("firewall", State.PLANNED, f"let in {wanted} by firewalld zone {zones}", "", commands, act=act)


def _open_firewall(commands: tuple[tuple[str, ...], ...], what: str) -> str:
    firewall.open_up(commands)
    return what


def _rival_steps(wishes: Wishes, site: Site) -> Iterator[Step]:
    """Tell that fence_virtd is in the way: where we would start the daemon now that stops us, else it is advice."""
    stop = "systemctl disable --now fence_virtd"
    pids = ", ".join(map(str, site.rivals))
    if site.rivals and not site.holders:
        what = f"{ground.RIVAL} runs (process {pids}) and is not in the way: it has no port of ours"
        note = "no guest should be served by both: two daemons do not know of each other's actions"
        yield Step(ground.RIVAL, State.UNCHANGED, what, notes=(note,))
    elif site.rivals:
        what = f"{ground.RIVAL} runs (process {pids}) and holds the port"
        command = stop if site.unit.is_manager else f"kill {' '.join(map(str, site.rivals))}"
        remedy = f"stop it first: {command}; then run this again"
        if wishes.service and site.unit.is_manager:
            yield obstacle(ground.RIVAL, what, VmfenceError(what, "two daemons cannot serve the same guests", remedy))
        else:
            yield Step(ground.RIVAL, State.BY_HAND, what, "stop it before vmfence is started", (command,))
    elif site.holders:
        what = "; ".join(site.holders)
        if wishes.service and site.unit.is_manager:
            remedy = "stop it, or choose another port: vmfence host configure; then run this again"
            yield obstacle("port", "it is taken", VmfenceError(what, "the daemon could not listen there", remedy))
        else:
            yield Step("port", State.BY_HAND, what, "stop it before vmfence is started")
    if site.unit.is_rival_enabled and not site.rivals:
        what = "it would be started at the next boot and take the port"
        yield Step(ground.RIVAL, State.BY_HAND, what, "", (stop,))


def _service_step(wishes: Wishes, settings: Settings, site: Site, is_new: bool) -> Step:
    command = shlex.join([*site.program, "host", "daemon", "--wait-for-init"])
    start, path = site.unit.start, os.path.abspath(settings.path)
    # What the unit names already goes on being named: a file that is made later must not take its place.
    named = None if site.is_found_unnamed and start.config != path else path
    command += "" if named is None else f" --config {shlex.quote(named)}"
    if not wishes.service:
        return Step("service", State.LEFT_OUT, "start the daemon yourself", "--no-service", (command,))
    if not site.unit.is_manager:
        why = "no systemd runs here: have this machine's service manager run the daemon"
        return Step("service", State.BY_HAND, "start the daemon", why, (command,))
    if site.unit.is_masked:
        what = f"{unit.NAME} is masked"
        remedy = f"systemctl unmask {unit.NAME}; then run this again"
        return obstacle("service", what, VmfenceError(what, "somebody has forbidden systemd to start it", remedy))
    if start.drop_in and (start.fault or start.config != path and (start.config or named)):
        return _overruled(start, path)
    unit.check_visible(path)
    more = unit.extras(settings, [site.config_owner, *(key.owner for key in site.keys)])
    texts = [unit.render(unit.shipped_text(), site.program, named, more)]
    if start.drop_in:  # which names it, so that the unit itself need not
        texts.append(unit.render(unit.shipped_text(), site.program, None, more))
    is_fit = site.unit.is_packaged and not more and (named is None or start.config == path)
    text = site.unit.text if is_fit or site.unit.text in texts else texts[0]
    is_same = site.unit.text == text
    if is_same and site.unit.is_enabled and site.unit.is_active and not is_new and site.stale:
        why = f"it does not run with what is there now: {', '.join(site.stale)}"
        act = partial(_start_service, None, settings)
        return Step("service", State.PLANNED, f"restart {unit.NAME}", why, act=act)
    if is_same and site.unit.is_enabled and site.unit.is_active and not is_new:
        return Step("service", State.UNCHANGED, f"{unit.NAME} is enabled and runs")
    act = partial(_start_service, None if is_same else text, settings)
    what = "" if is_same else f"install {unit.INSTALL_PATH}, "
    return Step("service", State.PLANNED, f"{what}enable and start {unit.NAME}", act=act)


def _overruled(start: Start, path: str) -> Step:
    """Return the obstacle that a drop-in has the service run with another configuration than the one at *path*."""
    runs = "cannot be understood" if start.fault else f"names {start.config or 'no configuration'}"
    remedy = f"remove it, or have it name {path}; then run: systemctl daemon-reload, and this again"
    return obstacle(
        "service", "a drop-in overrules it", VmfenceError(f"{start.drop_in} {runs}, not {path}", "", remedy)
    )


def _start_service(text: str | None, settings: Settings) -> str:
    if text is not None:
        folder = settings.daemon.state_dir
        unit.install(text, [] if folder == STATE_DIR else [folder])
    unit.start()
    return f"{unit.NAME} is enabled and runs" + (f", by {unit.INSTALL_PATH}" if text is not None else "")


def _check_step(wishes: Wishes, settings: Settings, site: Site) -> Step:
    if not wishes.check:
        return Step("check", State.LEFT_OUT, "not tried", "--no-check")
    must_serve = wishes.service and site.unit.is_manager
    is_open = not site.firewall.rules and not site.firewall.doubts
    suspect = "" if is_open else "do by hand what step firewall says, then run this again"
    act = partial(_check, settings.path, must_serve, suspect)
    what = "settings, key, libvirt and listener; a request like a guest's"
    return Step("check", State.PLANNED, what, act=act, ends_as=State.GOOD)


def _check(path: str, must_serve: bool, suspect: str) -> Outcome:
    notes: list[str] = []
    what = "; ".join(selfcheck.check(os.path.abspath(path), must_serve, suspect, notes.append))
    return Outcome(what, tuple(notes))
