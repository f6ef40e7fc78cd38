"""``vmfence host setup``: what has to be done on this host, step by step, and doing it.

plan() is pure: from what was chosen and found to a list of steps, of which those that are done already have nothing to
do, so a second run changes nothing and a run after a failure goes on where it stopped.  carry_out() does them in order
and stops at the first that fails.
"""

from __future__ import annotations

import enum
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Callable, NoReturn

from vmfence import keyfile
from vmfence.config.settings import SEARCH_PATHS, STATE_DIR, MulticastSettings, Settings, TcpSettings
from vmfence.errors import VmfenceError
from vmfence.host import configure, firewall, ground, selfcheck, unit
from vmfence.host.choice import Choice, Wishes
from vmfence.host.firewall import Firewall
from vmfence.host.ground import KeyFacts, Site

Act = Callable[[], "str | None"]


class State(enum.Enum):
    """How a step stands."""

    CHOSEN = "chosen"
    UNCHANGED = "unchanged"
    PLANNED = "would do"
    DONE = "done"
    GOOD = "good"
    BY_HAND = "by hand"
    LEFT_OUT = "left out"
    FAILED = "failed"
    NOT_DONE = "not done"


@dataclass(frozen=True)
class Step:
    """One step: *what* is or will be so, and *why*; *act* does it and may return a better *what*.

    *commands* are for the administrator to type.  *notes* are worth a look.  *ends_as*: its state once *act* is done.
    """

    name: str
    state: State
    what: str
    why: str = ""
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    act: Act | None = field(default=None, compare=False, repr=False)
    ends_as: State = State.DONE

    def as_dict(self) -> dict[str, object]:
        """Return it fit for JSON."""
        shown = {"step": self.name, "state": self.state.value, "what": self.what, "why": self.why}
        return {**shown, "commands": list(self.commands), "notes": list(self.notes)}


def plan(wishes: Wishes, choice: Choice, site: Site) -> tuple[Step, ...]:
    """Return all steps in their order."""
    settings = choice.settings
    is_new = choice.text is not None or not all(key.exists for key in site.keys)
    return (
        Step("libvirt", State.CHOSEN, *choice.hypervisor),
        Step("listener", State.CHOSEN, *choice.listener, notes=choice.doubts),
        *(_key_step(key) for key in site.keys),
        _config_step(choice),
        *_firewall_steps(wishes, site),
        *_rival_steps(wishes, site),
        _service_step(wishes, settings, site, is_new),
        _check_step(wishes, settings, site),
    )


def carry_out(steps: Sequence[Step], is_dry: bool) -> Iterator[Step]:
    """Yield each step as it stands once it is dealt with.

    Nothing is changed when *is_dry*.  Raises the VmfenceError of a step that fails, after all have been yielded.  What
    else ends it, Ctrl-C above all, ends it at once: what was not yielded is for unfinished() to tell.
    """
    failure: VmfenceError | None = None
    for step in steps:
        if step.act is None:
            yield step
        elif failure is not None:
            yield replace(step, state=State.NOT_DONE)
        elif is_dry and step.state is not State.FAILED:
            yield step
        else:
            try:
                done = replace(step, state=step.ends_as, what=_carried_out(step))
            except VmfenceError as error:
                failure = error
                done = replace(step, state=State.FAILED, why=str(error))
            yield done
    if failure is not None:
        raise failure


def _carried_out(step: Step) -> str:
    assert step.act is not None
    try:
        return step.act() or step.what
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = "mend that, then run this again"
        raise VmfenceError(f"step {step.name} failed", f"{where}{error.strerror or error}", remedy) from error


def unfinished(steps: Sequence[Step], finished: int) -> Iterator[Step]:
    """Yield how the rest of *steps* stands after carry_out() was broken off, when *finished* had been yielded."""
    under_way = True
    for step in steps[finished:]:
        if step.act is None:
            yield step
        elif under_way:
            under_way = False
            note = "interrupted: it may be done, in part or not at all; run setup again to be sure"
            yield replace(step, state=State.FAILED, notes=(*step.notes, note))
        else:
            yield replace(step, state=State.NOT_DONE)


def has_changed(planned: Sequence[Step], ended: Sequence[Step]) -> bool:
    """Whether anything was changed, or may have been by a step that failed on its way."""
    return any(
        after.state is State.DONE
        or (after.state is State.FAILED and before.state is State.PLANNED and before.ends_as is State.DONE)
        for before, after in zip(planned, ended)
    )


def next_commands(settings: Settings) -> tuple[str, ...]:
    """Return what to type next on a guest that has the key."""
    for one in settings.listeners:
        if isinstance(one, MulticastSettings):
            words = ["fence_xvm", "-o", "list", *_unusual(one)]
            return (shlex.join(words),)
        if isinstance(one, TcpSettings):
            address = "10.0.2.2" if one.address.startswith("127.") else one.address
            return (shlex.join(["vmfence", "list", "-T", address, *_unusual(one, "address")]),)
    return ("vmfence list",)


def condition(settings: Settings) -> str:
    """Return what must be so on a guest before next_commands() work there."""
    keys = " and ".join(ground.key_files(settings))
    needs = [f"that has the same key ({keys})"] if keys else []
    if any(isinstance(one, MulticastSettings) for one in settings.listeners):
        ports = {one.port for one in settings.listeners if isinstance(one, MulticastSettings)}
        needs.append(f"whose firewall lets in TCP {' and '.join(map(str, sorted(ports)))}")
    return " and ".join(needs)


def _unusual(one: MulticastSettings | TcpSettings, *left_out: str) -> list[str]:
    """Return the agent's options for what is not as agents expect it."""
    usual = MulticastSettings(address="ff05::3:1") if one.family == "ipv6" else MulticastSettings()
    options = {"address": "-a", "port": "-p", "key_file": "-k"}
    words = ["-i", "ipv6"] if one.family == "ipv6" and "address" not in left_out else []
    for name, option in options.items():
        if name not in left_out and getattr(one, name) != getattr(usual, name):
            words += [option, str(getattr(one, name))]
    words += ["-c", str(one.hash)] if one.hash > usual.hash else []
    return words + (["-C", str(one.auth)] if one.auth != usual.auth else [])


def _key_step(key: KeyFacts) -> Step:
    if key.fault is not None:
        return _obstacle("key", f"{key.path} cannot be used", key.fault)
    if key.exists:
        return Step("key", State.UNCHANGED, f"{key.path}, SHA256 {key.fingerprint}", notes=key.weaknesses)
    why = "there is none, and it is what guests prove themselves with"
    return Step("key", State.PLANNED, f"make {key.path}", why, act=partial(_make_key, key.path))


def _make_key(path: str) -> str:
    return f"made {path}, SHA256 {keyfile.fingerprint(keyfile.create(path))}"


def _config_step(choice: Choice) -> Step:
    path = choice.settings.path
    if choice.text is None:
        is_old = path == SEARCH_PATHS[1]
        what = f"{path} is taken over from fence_virtd as it is" if is_old else f"{path} is used as it is"
        notes = tuple(str(warning) for warning in choice.settings.warnings)
        return Step("configuration", State.UNCHANGED, what, notes=notes)
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
        yield Step("firewall", State.BY_HAND, f"let in {wanted}", why, found.rules, found.doubts)
    elif found.doubts:
        why = "it cannot be seen whether a firewall stops requests"
        yield Step("firewall", State.BY_HAND, f"let in {wanted}", why, notes=found.doubts)
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
    if site.rivals:
        pids = ", ".join(map(str, site.rivals))
        what = f"{ground.RIVAL} runs (process {pids}) and holds the port"
        command = stop if site.unit.is_manager else f"kill {' '.join(map(str, site.rivals))}"
        remedy = f"stop it first: {command}; then run this again"
        if wishes.service and site.unit.is_manager:
            yield _obstacle(ground.RIVAL, what, VmfenceError(what, "two daemons cannot serve the same guests", remedy))
        else:
            yield Step(ground.RIVAL, State.BY_HAND, what, "stop it before vmfence is started", (command,))
    elif site.unit.is_rival_enabled:
        what = "it would be started at the next boot and take the port"
        yield Step(ground.RIVAL, State.BY_HAND, what, "", (stop,))


def _service_step(wishes: Wishes, settings: Settings, site: Site, is_new: bool) -> Step:
    command = shlex.join([*site.program, "host", "daemon", "--wait-for-init"])
    command += "" if settings.path in SEARCH_PATHS else f" --config {shlex.quote(settings.path)}"
    if not wishes.service:
        return Step("service", State.LEFT_OUT, "start the daemon yourself", "--no-service", (command,))
    if not site.unit.is_manager:
        why = "no systemd runs here: have this machine's service manager run the daemon"
        return Step("service", State.BY_HAND, "start the daemon", why, (command,))
    more = unit.extras(settings, [site.config_owner, *(key.owner for key in site.keys)])
    is_fit = site.unit.is_packaged and not more and settings.path in SEARCH_PATHS
    text = site.unit.text if is_fit else unit.render(unit.shipped_text(), site.program, settings.path, more)
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
    act = partial(_check, settings.path, site.program, must_serve, suspect)
    what = "settings, key, libvirt and listener; a request like a guest's"
    return Step("check", State.PLANNED, what, act=act, ends_as=State.GOOD)


def _check(path: str, program: tuple[str, ...], must_serve: bool, suspect: str) -> str:
    return "; ".join(selfcheck.check(os.path.abspath(path), program, must_serve, suspect))


def _obstacle(name: str, what: str, error: VmfenceError) -> Step:
    """Return a step that can only fail."""

    def refuse() -> NoReturn:
        raise error

    return Step(name, State.FAILED, what, str(error), act=refuse)
