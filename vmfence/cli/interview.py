"""The questions of ``vmfence host configure``: those of ``fence_virtd -c``, in its order, module path apart.

Each answer is checked against this host at once.  Nothing is written here: the answers become a tree, and keys that
are to be made are only noted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from vmfence import keyfile
from vmfence.cli.asking import Asker
from vmfence.cli.surroundings import Surroundings
from vmfence.config import values
from vmfence.config.grammar import Assign, Tree
from vmfence.config.listeners import CHANNEL, SERIAL_MODES
from vmfence.config.settings import BACKENDS, KEY_FILE, MULTICAST_ADDRESSES, PORT, TCP_ADDRESSES
from vmfence.config.values import BadValue, Endpoint, nearest
from vmfence.errors import UsageError, VmfenceError
from vmfence.host import network, pool_facts
from vmfence.host.backends.inventory import DEFAULT_URI, Inventory
from vmfence.host.configure import rules_for, section_of, value_of, with_rules, with_value
from vmfence.host.sections import LISTENERS
from vmfence.host.wishes import names

NONE, ALL = "none", "all"
VIRTIO = "virtio"  # as a listener: serial in that mode
_LISTENERS_TEXT = "Listeners take the requests of fence agents: one, or several separated by blanks."
_LOOPBACK_TEXT = "only guests with user networking reach a listener on loopback: name an address of their bridge"
_RULES_TEXT = (
    "Guests behind a channel prove themselves by being there, not by a key: which of them may fence each other?\n"
    "Names or UUIDs separated by blanks, all, or none: then no rules are written."
)
_POOL_TEXT = (
    "Of the hosts of a pool that hear the same multicast one answers with ignore, also for the guests of the others.\n"
    "With fail all do, and the first is believed, which may be one that is cut off from the others."
)
_INTERFACE_TEXT = "Guests are heard on this interface only; bridges of this host:"


class Interview:
    """Asks everything, starting from the configuration *tree*.

    *inventories* is what the libvirts that were named have, *new_keys* the key files to be made; whether to make them
    is asked only when something *will_write*.
    """

    def __init__(self, asker: Asker, tree: Tree, will_write: bool = True) -> None:
        self.new_keys: list[str] = []
        self._asker, self._will_write = asker, will_write
        self._before = self._tree = tree
        self._key_file: str | None = None
        self._is_virtio = False
        self.inventories: list[Inventory] = []
        configured = filter(None, (value_of(tree, f"backends/{name}", "uri") for name in BACKENDS))
        self._host = Surroundings(asker, (*configured, *(asker.given("--uri") or "").split()))

    def run(self) -> Tree:
        """Ask all questions and return the new configuration.  Raises VmfenceError."""
        self._asker.say(_LISTENERS_TEXT)
        listeners = self._listeners()
        for name in listeners:
            _QUESTIONS[name](self)
        check = values.choice(*BACKENDS)
        backend = self._ask("--backend", "Backend module", "fence_virtd", "backend", "libvirt", check)
        is_new = self._is_new(f"backends/{backend}")
        self._backend(backend)
        if backend == "cpg" and "multicast" in listeners:
            self._unknown_guest("ignore" if is_new else "fail")
        if "serial" in listeners:
            self._rules(listeners)
        self._asker.finish()
        if "multicast" in listeners:
            self._asker.warn(network.doubts(self._value("listeners/multicast", "interface"), self.inventories))
        return self._tree

    @property
    def had_rules(self) -> bool:
        """Whether there were access rules before anything was asked: those stay as they are."""
        return section_of(self._before, "groups") is not None

    def _listeners(self) -> list[str]:
        """Ask for the listeners and return those of the file, where virtio is a mode of serial."""
        present = self._value("fence_virtd", "listener") or "multicast"
        words = self._asker.ask("--listener", "Listener module", present, _listeners)
        self._is_virtio = VIRTIO in words
        listeners = ["serial" if word == VIRTIO else word for word in words]
        self._put("fence_virtd", "listener", " ".join(listeners))
        return listeners

    def _multicast(self) -> None:
        place = "listeners/multicast"
        self._address(place, "--address", "Multicast IP Address", MULTICAST_ADDRESSES, values.multicast_address)
        self._ask("--port", "Multicast IP Port", place, "port", str(PORT), _port)
        self._interface(place)
        self._security(place)

    def _tcp(self) -> None:
        place = "listeners/tcp"
        defaults = dict(TCP_ADDRESSES)
        if self._is_new(place) and self._asker.given("--tcp-address") is None:
            defaults["ipv4"] = self._host.own_address or defaults["ipv4"]
        self._address(place, "--tcp-address", "TCP Listen IP Address", defaults, self._host.address)
        if self._value(place, "address") in TCP_ADDRESSES.values():
            self._asker.warn((_LOOPBACK_TEXT,))
        self._ask("--tcp-port", "TCP Listen Port", place, "port", str(PORT), _port)
        self._security(place)

    def _vsock(self) -> None:
        self._ask("--vsock-port", "vsock Port", "listeners/vsock", "port", str(PORT), _port)
        self._security("listeners/vsock")

    def _serial(self) -> None:
        place = "listeners/serial"
        self._ask("--serial-uri", "Libvirt URI", place, "uri", DEFAULT_URI, self._answering)
        self._ask("--serial-path", "Socket directory", place, "path", NONE, _or_none(values.absolute_path))
        if self._serial_mode(place) == VIRTIO:
            self._ask("--serial-channel", "Name of the virtio ports", place, "channel", CHANNEL, values.text)

    def _serial_mode(self, place: str) -> str:
        """Return the mode of the channels, asked for unless the listener was called virtio."""
        check = values.choice(*SERIAL_MODES)
        if not self._is_virtio:
            return self._ask("--serial-mode", "Mode (serial, vmchannel or virtio)", place, "mode", "serial", check)
        if self._asker.option("--serial-mode", check) not in (None, VIRTIO):
            raise UsageError(f"listener {VIRTIO} has the mode of that name", "", "leave --serial-mode out")
        self._put(place, "mode", VIRTIO)
        return VIRTIO

    def _backend(self, name: str) -> None:
        place = f"backends/{name}"
        is_new = self._is_new(place)
        self._uris(place)
        if name == "cpg":
            default = "uuid" if is_new else self._value("fence_virtd", "name_mode") or "name"
            check = values.choice("name", "uuid")
            self._ask("--name-mode", "VM naming/tracking mode (name or uuid)", place, "name_mode", default, check)
            prompt = "Program that tells whether a host was fenced"
            self._ask("--fenced-command", prompt, place, "fenced_command", NONE, _or_none(self._fenced_command))

    def _unknown_guest(self, default: str) -> None:
        self._asker.say(_POOL_TEXT)
        check = values.choice("fail", "ignore")
        self._ask("--unknown-guest", "Guests that nobody knows", "fence_virtd", "unknown_guest", default, check)

    def _fenced_command(self, answer: str) -> str:
        """Check the program that the daemon will run as root, and believe.  Raises BadValue."""
        found = pool_facts.judge(values.absolute_path(answer))
        if found.fault:
            raise BadValue(f"{answer} cannot be run: {found.fault}")
        if found.open_to:
            self._asker.warn((f"others than root can change {answer}, which the daemon will run: {found.open_to}",))
        return answer

    def _rules(self, listeners: list[str]) -> None:
        """Ask who may fence whom where no key is asked for, unless the configuration says so already."""
        is_open = _is_yes(self._value("fence_virtd", "allow_unauthenticated") or "no")
        if self.had_rules or is_open:
            return
        self._asker.say(_RULES_TEXT)
        guests = self._asker.ask("--serial-guests", "Guests that may fence each other", ALL, self._guests)
        if guests:
            self._tree = with_rules(self._tree, rules_for(guests, bool({"multicast", "tcp"} & {*listeners})))

    def _guests(self, answer: str) -> list[str]:
        """Return the UUIDs of the guests that are named, of all for "all".  Raises BadValue."""
        known = [guest for one in self.inventories for guest in one.guests]
        if answer.lower() in (ALL, NONE):
            return [guest.uuid for guest in known] if answer.lower() == ALL else []
        found = []
        for word in answer.split():
            uuid = next((guest.uuid for guest in known if names((word,), guest.name, guest.uuid)), None)
            if uuid is None:
                raise BadValue(f"there is no guest {word}", nearest(word, [guest.name for guest in known]))
            found.append(uuid)
        return list(dict.fromkeys(found))

    def _ask(self, option: str, prompt: str, place: str, key: str, default: str, check: Callable[[str], str]) -> str:
        """Ask for one key; its present value is the default.  *check* returns what is written; "none" removes it."""
        answer = self._asker.ask(option, prompt, self._value(place, key) or default, check)
        self._put(place, key, None if answer == NONE else answer)
        return answer

    def _value(self, place: str, key: str) -> str | None:
        return value_of(self._tree, place, key)

    def _put(self, place: str, key: str, value: str | None) -> None:
        self._tree = with_value(self._tree, place, key, value)

    def _is_new(self, place: str) -> bool:
        """Whether the section was not there: then a proposal may be better than the silent default it had."""
        return section_of(self._before, place) is None

    def _address(
        self, place: str, option: str, prompt: str, defaults: dict[str, str], check: Callable[[str], Endpoint]
    ) -> None:
        """Ask for the address; it decides the family, and a family given by option decides the default."""
        family = self._asker.option("--family", values.choice(*defaults))
        default = self._value(place, "address")
        if default is None or (family and (":" in default) != (family == "ipv6")):
            default = defaults["ipv6" if (family or self._value(place, "family") or "").lower() == "ipv6" else "ipv4"]

        def of_family(answer: str) -> Endpoint:
            found = check(answer)
            if family and found.family not in (None, family):
                raise BadValue(f"{found.address} is not an address of family {family}", "leave --family out")
            return found

        found = self._asker.ask(option, prompt, default, of_family)
        self._put(place, "family", found.family or family)
        self._put(place, "address", found.address)

    def _interface(self, place: str) -> None:
        option = "--interface"
        default = self._value(place, "interface")
        if self._asker.given(option) is None and not self._asker.unattended:
            choices = map(str, self._host.bridges or ("there is none",))
            self._asker.say("\n    ".join((_INTERFACE_TEXT, *choices)))
        if self._asker.given(option) is None and default is None and self._is_new(place):
            default = self._proposed_interface(option)
        answer = self._asker.ask(option, "Interface", default or NONE, _or_none(self._host.interface))
        self._put(place, "interface", None if answer == NONE else answer)

    def _proposed_interface(self, option: str) -> str:
        """Return the one bridge with guests, else none; when nobody is asked, that is not good enough."""
        only = self._host.only_bridge
        if only is None and self._asker.unattended:
            found = ", ".join(map(str, self._host.bridges))
            why = f"here are: {found}" if found else "this host has no bridge"
            raise VmfenceError("no interface to propose: not exactly one bridge has guests", why, f"give {option}")
        return only or NONE

    def _security(self, place: str) -> None:
        """Ask for the key; take hash and auth, which fence_virtd's wizard does not ask for either."""
        default = self._value(place, "key_file") or (self._key_file if self._is_new(place) else None) or KEY_FILE
        answer = self._asker.ask("--key-file", "Key File", default, _or_none(self._usable_key))
        if answer == NONE:
            self._usable_key(KEY_FILE)
        self._key_file = None if answer == NONE else answer
        self._put(place, "key_file", self._key_file)
        for option, key in (("--hash", "hash"), ("--auth", "auth")):
            kind = self._asker.option(option, values.hash_name)
            if kind is not None:
                self._put(place, key, str(kind))

    def _usable_key(self, answer: str) -> str:
        """Check the key, or note that it is to be made.  Raises KeyFileError, BadValue."""
        path = values.absolute_path(answer)
        if path not in self.new_keys and not os.path.lexists(path) and self._may_make(path):
            self.new_keys.append(path)
        if path not in self.new_keys:
            self._asker.warn(f"{path}: {fault}" for fault in keyfile.judge(path))
        return path

    def _may_make(self, path: str) -> bool:
        prompt = f"There is no key at {path}. Make one"
        return not self._will_write or self._asker.confirm(prompt, True, "--yes")

    def _uris(self, place: str) -> None:
        entries = section_of(self._tree, place) or ()
        given = [entry for entry in entries if isinstance(entry, Assign) and re.fullmatch("(?i)uri[0-9]*", entry.key)]
        present = " ".join(entry.value for entry in sorted(given, key=lambda entry: int(entry.key[3:] or 0)))
        default = present or (self._host.uri if self._asker.given("--uri") is None else DEFAULT_URI)
        answer = self._asker.ask("--uri", "Libvirt URI", default, self._all_answering)
        for entry in given:
            self._put(place, entry.key.lower(), None)
        for number, uri in enumerate(answer.split()):
            self._put(place, f"uri{number or ''}", uri)

    def _all_answering(self, answer: str) -> str:
        uris = answer.split()
        if len(set(uris)) < len(uris):
            raise BadValue("names one of them twice")
        self.inventories = [self._host.inventory(uri) for uri in uris]
        if not any(one.guests for one in self.inventories):
            others = [f"there are guests at {one}" for one in self._host.inventories if one.guests]
            self._asker.warn((f"there is no guest at {answer}", *others))
        return answer

    def _answering(self, uri: str) -> str:
        return self._host.inventory(uri).uri


_QUESTIONS: dict[str, Callable[[Interview], None]] = {
    "multicast": Interview._multicast,
    "tcp": Interview._tcp,
    "vsock": Interview._vsock,
    "serial": Interview._serial,
}


def _listeners(answer: str) -> tuple[str, ...]:
    words = values.choices(answer, LISTENERS)
    if {"serial", VIRTIO} <= {*words}:
        raise BadValue("virtio and serial are modes of one listener", "take one of them")
    return words


def _port(answer: str) -> str:
    return str(values.port(answer))


def _is_yes(text: str) -> bool:
    try:
        return values.boolean(text)
    except BadValue:
        return False  # told as a fault of the file


def _or_none(check: Callable[[str], str]) -> Callable[[str], str]:
    """Return a check that also accepts "none", in any case."""

    def convert(answer: str) -> str:
        return NONE if answer.lower() == NONE else check(answer)

    return convert
