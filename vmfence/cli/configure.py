"""``vmfence host configure``: the wizard of ``fence_virtd -c``, with every question also as an option."""

from __future__ import annotations

import os
from typing import Any

import click

from vmfence import keyfile
from vmfence.cli.asking import Asker, standard_input
from vmfence.cli.interview import Interview
from vmfence.cli.output import Output
from vmfence.config import settings
from vmfence.config.grammar import Tree, parse
from vmfence.errors import ConfigError, ConfigErrors, UsageError, VmfenceError
from vmfence.host import assemble, config_search
from vmfence.host import configure as file
from vmfence.host.choice import left_out
from vmfence.host.wishes import Wishes

# Every question, in their order: option, placeholder, help.
_ANSWERS = (
    ("--listener", "NAME", "multicast, tcp, vsock, virtio, serial. Several: give it again, or separate by blanks."),
    ("--address", "ADDRESS", "multicast: the group, IPv4 or IPv6."),
    ("--port", "PORT", "multicast: the UDP port."),
    ("--interface", "NAME", "multicast: the bridge that the guests are attached to; none: what the kernel chooses."),
    ("--tcp-address", "ADDRESS", "tcp: an address of this host."),
    ("--tcp-port", "PORT", "tcp: the port."),
    ("--vsock-port", "PORT", "vsock: the port."),
    ("--serial-uri", "URI", "serial: where the guests are."),
    ("--serial-path", "FOLDER", "serial: where the sockets of the guests are; none: anywhere."),
    ("--serial-mode", "MODE", "serial, vmchannel or virtio."),
    ("--serial-channel", "NAME", "virtio: the name of the guests' ports."),
    (
        "--serial-guests",
        "GUESTS",
        "serial: who may fence each other: names or UUIDs, all; none: no access rules.",
    ),
    ("--key-file", "FILE", "The key of multicast, tcp and vsock; none: /etc/cluster/fence_xvm.key."),
    ("--family", "FAMILY", "ipv4 or ipv6. Never asked: the address tells."),
    ("--hash", "HASH", "The weakest signature accepted: none, sha1, sha256, sha512. Never asked."),
    ("--auth", "HASH", "The hash of the challenges: none, sha1, sha256, sha512. Never asked."),
    ("--backend", "NAME", "libvirt or cpg."),
    ("--uri", "URI", "Where libvirt has the guests. Several: give it again."),
    ("--name-mode", "MODE", "cpg: name or uuid."),
    ("--fenced-command", "FILE", "cpg: a program that tells whether a host was fenced; none: Pacemaker is asked."),
    ("--unknown-guest", "WORD", "cpg with multicast: fail, or ignore: of the hosts that hear a request one answers."),
)
_SEVERAL = ("--listener", "--uri", "--serial-guests")


def _answer_options(command: Any) -> Any:
    for option, metavar, text in reversed(_ANSWERS):
        command = click.option(option, metavar=metavar, help=text, multiple=option in _SEVERAL)(command)
    return command


@click.command()
@click.option("-f", "--config", metavar="FILE", help="The file to write; else the one in use, or /etc/vmfence.conf.")
@click.option(
    "--import", "imported", metavar="FILE", help="Start from this file; without -f, /etc/vmfence.conf is written."
)
@click.option("--from-scratch", is_flag=True, help="Start from nothing, also over a broken file; nothing is kept.")
@click.option("--print", "print_only", is_flag=True, help="Write the result to stdout and nothing to disk.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Ask nothing: present values where no option is given, yes to the rest.")
@_answer_options
def configure(
    config: str | None,
    imported: str | None,
    from_scratch: bool,
    print_only: bool,
    dry_run: bool,
    yes: bool,
    **answers: Any,
) -> None:
    """Make or change the configuration: the questions of fence_virtd -c, each answer checked at once.

    An empty line takes the value in brackets. The end of the input, or Ctrl-C, leaves everything as it was. Questions
    whose option is given are not asked; with all of them, a key in place, and no terminal, nothing is asked.
    """
    _check_options(imported, from_scratch, print_only, dry_run)
    target = _target(config, imported)
    if not (print_only or dry_run):
        file.check_writable(target)
    before = file.read_file(target)
    asker = Asker(_given(answers), yes, standard_input())
    tree = () if from_scratch else _start(target, before, imported, asker)
    interview = Interview(asker, tree, will_write=not (print_only or dry_run))
    after = _checked(interview, interview.run(), target, asker)
    if print_only:
        click.echo(after, nl=False)
        return
    is_same = file.is_same(before, after, target)
    output = Output()
    output.echo(f"{target}: nothing to change" if is_same else file.difference(before, after, target), nl=is_same)
    output.check("nothing was changed")  # what is to be written was not seen
    if not dry_run:
        _carry_out(target, before, None if is_same else after, interview.new_keys, asker)


def _check_options(imported: str | None, from_scratch: bool, print_only: bool, dry_run: bool) -> None:
    if imported is not None and from_scratch:
        raise UsageError("--import starts from a file, --from-scratch from nothing", "", "give one of them")
    if print_only and dry_run:
        raise UsageError("--print shows the result, --dry-run the difference", "", "give one of them")


def _target(config: str | None, imported: str | None) -> str:
    """Return the file to write: the one named, else the one in use; what is imported is not written over."""
    if config is None and imported is None:
        try:
            return config_search.in_service() or settings.find(None)
        except ConfigError:
            pass  # there is none: it is made
    return os.path.abspath(config or settings.SEARCH_PATHS[0])


def _given(answers: dict[str, Any]) -> dict[str, str]:
    """Return the options that were given, with their dashes; several values of one become words."""
    given = {f"--{name.replace('_', '-')}": value for name, value in answers.items() if value not in (None, ())}
    return {option: " ".join(value) if isinstance(value, tuple) else value for option, value in given.items()}


def _start(target: str, before: bytes | None, imported: str | None, asker: Asker) -> Tree:
    """Return the configuration to start from, after telling what is wrong with it."""
    source = imported or target
    content = before if imported is None else file.read_file(imported)
    if content is None:
        if imported is not None:
            raise ConfigError(
                imported, 0, "the configuration file does not exist", "name another, or leave --import out"
            )
        asker.say(f"{target} does not exist yet")
        return ()
    try:
        tree = parse(content, source)
    except ConfigError as error:
        broken = VmfenceError(str(error), "it cannot be the start", "mend it, or use --from-scratch")
        if asker.unattended:
            raise broken from error
        asker.say(f"{error}")
        if not asker.confirm("Start from scratch", False, "--from-scratch"):
            raise broken from error
        return ()
    asker.warn(_faults(content, source))
    return tree


def _faults(content: bytes, path: str) -> tuple[ConfigError, ...]:
    try:
        settings.read(content, path)
    except ConfigErrors as errors:
        return errors.faults
    return ()


def _checked(interview: Interview, tree: Tree, target: str, asker: Asker) -> bytes:
    """Return the text of *tree* after reading it as the daemon does.  Raises ConfigErrors."""
    after = file.text_of(tree)
    found = settings.read(after, f"{target} (new)")
    asker.warn(found.warnings)
    if interview.had_rules:
        asker.warn(left_out(Wishes(), found, interview.inventories))
    try:
        assemble.read_plan(found)
    except VmfenceError as error:
        if not _is_to_be_made(error, interview.new_keys):
            asker.warn((f"vmfence's own daemon will not start with this: {error}",))
    return after


def _is_to_be_made(error: VmfenceError, new_keys: list[str]) -> bool:
    """Tell whether *error* only says that one of *new_keys* is not there yet."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, FileNotFoundError):
        cause = cause.__cause__
    return cause is not None and cause.filename in new_keys


def _carry_out(target: str, before: bytes | None, after: bytes | None, new_keys: list[str], asker: Asker) -> None:
    """Write what is to be written, after asking: keys first, since a file that names no key is of no use."""
    needs_word = asker.asked > 0 or asker.is_watched
    prompt = f"Replace {target} with the above" if before is not None else f"Write {target}"
    if after is not None and needs_word and not asker.confirm(prompt, False, "--yes"):
        raise VmfenceError("nothing was changed", "", "")
    for path in new_keys:
        click.echo(f"{path}: made, SHA256 {keyfile.fingerprint(keyfile.create(path))}")
    if after is not None:
        copy = file.replace_file(target, before, after)
        click.echo(f"{target}: written" + (f"; the file before is {copy}" if copy else ""))
        click.echo(_when_read(before, after, target))


def _when_read(before: bytes | None, after: bytes, target: str) -> str:
    """Return when a daemon that runs takes the file at *target*."""
    try:
        old = None if before is None else settings.read(before, target).backend
    except (ConfigError, ConfigErrors):
        old = None  # no daemon runs with that
    new = settings.read(after, target).backend
    is_of_pool = old is not None and "cpg" in (old.name, new.name)
    if is_of_pool and old and (old.name, old.fenced_command) != (new.name, new.fenced_command):
        return "The daemon reads it when it starts: the pool cannot change while it runs, so restart it."
    return "The daemon reads it when it starts, and on SIGHUP."
