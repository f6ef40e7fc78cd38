"""The program that Pacemaker starts for every fence action.

Start-up promise: of the standard library only os, sys, time, struct, errno, socket, hashlib, hmac, enum
and what these load.  Exit code 0 means that the host has proven the key and reported success, or that
the action was local; order of work and exit codes as fence_xvm 4.12.1, but for what differences.py lists.
"""

from __future__ import annotations

import os
import sys
import time

from vmfence import __version__, keyfile
from vmfence.agent import outcome
from vmfence.agent.console import Console, is_terminal, read_stdin
from vmfence.agent.metadata import metadata
from vmfence.agent.parse import STDIN_BYTES_MAX, parse_argv, parse_stdin, program_of
from vmfence.agent.usage import help_text
from vmfence.agent.values import safe
from vmfence.client.ask import ask as ask_host
from vmfence.client.transport import Transport
from vmfence.errors import KeyFileError, UsageError, VmfenceError
from vmfence.protocol.auth import Key
from vmfence.protocol.request import POWER_ACTIONS, Action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Callable

    from vmfence.agent.settings import Options
    from vmfence.client.stream import Answer

    Ask = Callable[..., Answer]
    Sleep = Callable[[float], None]


def main(argv: list[str], ask: Ask = ask_host, sleep: Sleep = time.sleep) -> int:
    """Do what *argv*, or without arguments standard input, asks for; return the exit code.

    *ask* puts the question to a host, *sleep* waits for the delay.  Never raises.
    """
    console = Console(program_of(argv))
    try:
        return _run(argv, console, ask, sleep)
    except UsageError as fault:
        return _refuse([fault], console)
    except KeyboardInterrupt:
        console.err("error: interrupted; whether anything was done is not known.")
        return outcome.FAILED
    except Exception as error:  # noqa: BLE001 - the process entry: no traceback in a cluster's log, and never success
        return _internal_error(error, console)


def _run(argv: list[str], console: Console, ask: Ask, sleep: Sleep) -> int:
    options = _read_options(argv, console)
    console.debugging = options.debug > 0
    for warning in options.warnings:
        console.err(f"warning: {warning}")
    faults = options.faults or _key_faults(options)
    if faults:
        return _refuse(faults, console)
    text = _local_text(options)
    if text is not None:
        return outcome.OK if console.out(text) else outcome.FAILED
    return _finish(_exchange(options, console, ask, sleep), console)


def _read_options(argv: list[str], console: Console) -> Options:
    if len(argv) > 1:
        return parse_argv(argv)
    if is_terminal():
        console.err(f"reading name=value lines from the terminal until Ctrl-D; for help: {console.program} -h")
    return parse_stdin(read_stdin(STDIN_BYTES_MAX), console.program)


def _key_faults(options: Options) -> Sequence[VmfenceError]:
    """Return what is wrong with a key file that was named, and in a validation with any key."""
    faults = _key_file_faults(options) if "key_file" in options.given else []
    if faults or not options.validates_key:
        return faults
    try:
        keyfile.read(options.key_file)
    except KeyFileError as error:
        return [error]
    return []


def _key_file_faults(options: Options) -> list[UsageError]:
    try:
        os.stat(options.key_file)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        return [UsageError(f"Invalid key file: '{safe(options.key_file)}' ({reason})", "", "copy it from the host")]
    return []


def _local_text(options: Options) -> str | None:
    """Return what to print when nobody need be asked, else None."""
    if options.help:
        return help_text(options.program)
    if options.version:
        return f"{options.program} {__version__}\nvmfence release {__version__}\n"
    if options.action is Action.METADATA:
        return metadata(options.program)
    return "" if options.action is Action.VALIDATE_ALL else None


def _exchange(options: Options, console: Console, ask: Ask, sleep: Sleep) -> outcome.Outcome:
    action, target = options.action, options.target
    if action is Action.NULL:
        return outcome.null(target)
    try:
        key = _key(options, console)
        if options.delay_s and action in POWER_ACTIONS:
            console.debug(f"waiting {options.delay_s} s before {action}")
            sleep(options.delay_s)
        return outcome.judge(action, target, _ask(options, key, console, ask), options.program)
    except VmfenceError as error:
        return outcome.failure(action, target, error)
    except OSError as error:
        reason = error.strerror or str(error)
        return outcome.failure(action, target, VmfenceError("this system does not let us ask a host", reason))


def _key(options: Options, console: Console) -> Key | None:
    """Return the key, None when nothing needs it.  Raises KeyFileError."""
    if not options.uses_key:
        return None
    try:
        return Key(keyfile.read(options.key_file))
    except KeyFileError as error:
        if options.needs_key:
            raise
        console.debug(f"only what needs no key is tried: {error}")
        return None


def _ask(options: Options, key: Key | None, console: Console, ask: Ask) -> Answer:
    console.debug(
        f"{options.action} of {options.target!r} by {options.transport}, port {options.ipport}, "
        f"hash {options.hash}, auth {options.auth}, "
        f"{f'key {options.key_file}' if key else 'no key'}, at most {options.timeout_s} s"
    )
    return ask(
        options.action,
        options.target,
        _transport(options),
        key,
        hash_type=options.hash,
        auth=options.auth,
        timeout_s=options.timeout_s,
        flags=options.flags,
        log=console.debug,
        tell=lambda text: _tell(text, console),
    )


def _tell(text: str, console: Console) -> None:
    console.err(text)
    console.log(text, failed=False)


def _transport(options: Options) -> Transport:
    kind = options.transport
    addresses = {
        "multicast": options.multicast_address,
        "auto": options.multicast_address,
        "tcp": options.ipaddr,
        "vmchannel": options.channel_address,
    }
    return Transport(
        kind,
        address=addresses.get(kind, ""),
        port=options.ipport,
        family=options.ip_family,
        retrans_s=options.retrans_s,
        cid=options.vsock,
        device=options.device,
        line=options.serial_params,
    )


def _finish(result: outcome.Outcome, console: Console) -> int:
    # A list is nothing but what is printed; status and power actions have their exit code.
    is_lost = not console.out(result.out) and not result.out.startswith("Status: ")
    for line in result.err:
        console.err(line)
    console.log(result.log, failed=is_lost or bool(result.err))
    return outcome.FAILED if is_lost else result.exit_code


def _refuse(faults: Sequence[VmfenceError], console: Console) -> int:
    for fault in faults:
        console.err(f"error: {fault}")
        console.log(str(fault), failed=True)
    return outcome.FAILED


def _internal_error(error: Exception, console: Console) -> int:
    text = f"internal error, please report it: {type(error).__name__}: {error}"
    console.err(f"error: {text}")
    console.log(text, failed=True)
    if console.debugging:
        sys.__excepthook__(type(error), error, error.__traceback__)
    return outcome.FAILED
