"""From the command line or standard input to Options.

Light module (loaded for every fence action: standard library only).  Pure: words or bytes in, Options out.
What is on purpose not as in fence_xvm 4.12.1 stands in differences.py.
"""

from __future__ import annotations

import os

from vmfence.agent.options import ALIASES, BY_NAME, COMMAND_LINE_ONLY, OURS, Option, accepted, imitates, owner
from vmfence.agent.settings import Options
from vmfence.agent.values import nearest, safe
from vmfence.errors import UsageError

STDIN_BYTES_MAX = 65536
_SILENT_NAMES = frozenset({"agent", "self", "nodename", "nodeid", "stonith_timeout"})
_SILENT_PREFIXES = ("pcmk_", "crm_")


def program_of(argv: list[str]) -> str:
    """Return the name to go by: the base name of argv[0] if it is that of a fence agent."""
    name = os.path.basename(argv[0]) if argv else ""
    return name if name.startswith("fence_") else OURS


def parse_argv(argv: list[str]) -> Options:
    """Return the options in *argv*, getopt style: values attached or not, flags bundled, ``--`` ends them."""
    options = Options(program_of(argv), from_stdin=False)
    # The locale must not change a guest's name: on the wire it is UTF-8.
    words = [os.fsencode(word).decode("utf-8", "surrogateescape") for word in argv[:0:-1]]
    while words:
        word = words.pop()
        if word == "--":
            options.faults.extend(map(_stray, reversed(words)))
            break
        if word.startswith("--"):
            _long(options, word[2:], words)
        elif word.startswith("-") and word != "-":
            _short(options, word[1:], words)
        else:
            options.faults.append(_stray(word))
    options.check()
    return options


def parse_stdin(data: bytes, program: str) -> Options:
    """Return the options in *data*: lines of name=value.

    Blanks around name and value are dropped, blanks inside a value kept, one pair of double quotes around it
    taken off. Lines that begin with # are comments.
    """
    options = Options(program, from_stdin=True)
    if len(data) > STDIN_BYTES_MAX:
        options.faults.append(UsageError("standard input is too long", f"more than {STDIN_BYTES_MAX} bytes"))
    elif b"\0" in data:
        options.faults.append(UsageError("standard input holds a zero byte", "", "write lines of name=value"))
    else:
        for line in data.decode("utf-8", "surrogateescape").lstrip("\ufeff").split("\n"):
            _line(options, line.strip(" \t\r\v\f"))
    options.check()
    return options


def _line(options: Options, line: str) -> None:
    if not line or line.startswith("#"):
        return
    name, equals, value = line.partition("=")
    option = _find(name.strip(), accepted(options.program))
    if option is None:
        _ignore(options, name.strip())
        return
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    _take(options, option, value if equals else None, option.name)


def _ignore(options: Options, name: str) -> None:
    plain = _plain(name)
    if plain not in _SILENT_NAMES and not plain.startswith(_SILENT_PREFIXES):
        options.warnings.append(f"unknown option '{safe(name)}' ignored")


def _long(options: Options, word: str, words: list[str]) -> None:
    name, equals, value = word.partition("=")
    known = accepted(options.program) + COMMAND_LINE_ONLY
    option = _find(name, known)
    if option is None:
        options.faults.append(_unknown(options, name, known))
    elif equals or not option.kind.needs_value:
        _take(options, option, value if equals else None, f"--{name}")
    else:
        _take(options, option, words.pop() if words else None, f"--{name}")


def _short(options: Options, letters: str, words: list[str]) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        option = _by_letter(options.program, letter)
        if option is None:
            options.faults.append(_unknown_letter(options, letter))
            return
        value: str | None = None
        if option.kind.needs_value:
            value = letters or (words.pop() if words else None)
            letters = ""
        elif option.name == "vsock":
            value, letters = letters or None, ""
        _take(options, option, value, f"-{letter}")


def _take(options: Options, option: Option, value: str | None, called: str) -> None:
    """Give *value* to *options* unless the option must have one and has none."""
    if value or not option.kind.needs_value:
        options.take(option, value)
    elif option.field == "target" and value is not None:
        options.faults.append(UsageError("Invalid domain name", f"{called} is empty", "name the guest"))
    else:
        options.faults.append(UsageError(f"option {called} has no value", "", _example(option, called)))


def _example(option: Option, called: str) -> str:
    short = called.startswith("-") and not called.startswith("--")
    return f"write {called}{' ' if short else '='}{option.value.upper()}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _find(name: str, known: tuple[Option, ...]) -> Option | None:
    plain = ALIASES.get(_plain(name), _plain(name))
    return next((option for option in known if option.name == plain), None)


def _by_letter(program: str, letter: str) -> Option | None:
    wanted = "h" if letter == "?" else letter
    return next((o for o in accepted(program) + COMMAND_LINE_ONLY if o.letter == wanted), None)


def _stray(word: str) -> UsageError:
    return UsageError(f"unexpected argument '{safe(word)}'", "only options are taken", "a dash may be missing")


def _unknown(options: Options, name: str, known: tuple[Option, ...]) -> UsageError:
    what = f"{options.program} has no option --{safe(name)}"
    other = BY_NAME.get(_plain(name))
    if other is not None:
        return UsageError(what, f"{owner(other)} has it", f"{OURS} takes the options of both")
    why = nearest(f"--{_plain(name)}", [f"--{option.name}" for option in known])
    return UsageError(what, why, f"{options.program} -h lists them")


def _unknown_letter(options: Options, letter: str) -> UsageError:
    what = f"{options.program} has no option -{safe(letter)}"
    other = next((option for option in BY_NAME.values() if option.letter == letter), None)
    if other is not None and imitates(options.program):
        return UsageError(what, f"{owner(other)} has it", f"{OURS} takes the options of both")
    swapped = _by_letter(options.program, letter.swapcase())
    why = f"the nearest is -{swapped.letter}" if swapped else ""
    return UsageError(what, why, f"{options.program} -h lists them")
