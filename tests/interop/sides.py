"""The two sides of every interoperability test, each of them ours or the reference, on the bridge of the laboratory.

An Endpoint is where a daemon listens.  The truth about its guests is read by the raw peer of lab/wire.py, from the
host's own namespace: neither by the client under test, nor from what the daemon under test prints.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from lab import wire
from lab.net import BRIDGE, HOST_IPV4, HOST_IPV6, Bridge, Namespace
from lab.ours import CommandLine, driver_uri, our_config
from lab.process import Daemon, Result, run_client
from lab.reference import FENCE_VIRT, FENCE_XVM, config_text, fence_virtd, write_key

HASHES = {"none": wire.NONE, "sha1": wire.SHA1, "sha256": wire.SHA256, "sha512": wire.SHA512}
FAMILIES = ("ipv4", "ipv6")
TRANSPORTS = ("multicast", "tcp")
ADDRESSES = {"ipv4": HOST_IPV4, "ipv6": HOST_IPV6}
GROUPS = {"ipv4": wire.GROUP, "ipv6": wire.GROUP6}
ALPHA, BETA, UMLAUT = "alpha", "Beta", "gäst"
GUESTS = {
    ALPHA: "1111abcd-2222-3333-4444-555555555501",
    BETA: "1111abcd-2222-3333-4444-555555555502",
    UMLAUT: "1111abcd-2222-3333-4444-555555555503",
}
ON, OFF = 1, 5  # states of libvirt, as records carry them
PROGRAMS = {"multicast": "fence_xvm", "tcp": "fence_virt"}
REFERENCE = {"fence_xvm": FENCE_XVM, "fence_virt": FENCE_VIRT}
# Refused datagrams are answered by silence.  Two attempts of half a second: with timeout below retrans the real
# fence_xvm never ends (D10).
HASTE = {"timeout": 1, "retrans": 5}
LETTERS = {
    "ip_family": "-i", "multicast_address": "-a", "ipaddr": "-T", "ipport": "-p", "retrans": "-r", "hash": "-c",
    "auth": "-C", "key_file": "-k", "action": "-o", "plug": "-n", "port": "-H", "timeout": "-t", "delay": "-w",
}  # fmt: skip


_ports = itertools.count(wire.PORT + 1)


def shown(states: Mapping[str, int]) -> str:
    """Return the list that a client prints for guests in these states.  Names fill 32 bytes, not characters."""
    rows = ((name, " " * (32 - len(name.encode())), states[name]) for name in sorted(states, key=str.lower))
    return "".join(f"{name}{room} {GUESTS[name]} {'on' if state == ON else 'off'}\n" for name, room, state in rows)


def words(options: Mapping[str, object]) -> list[str]:
    """Return *options* (names as on stdin) as words of a command line."""
    return [word for name, value in options.items() for word in (LETTERS[name], str(value))]


def lines(options: Mapping[str, object]) -> str:
    """Return *options* as lines of standard input."""
    return "".join(f"{name}={value}\n" for name, value in options.items())


class Endpoint(NamedTuple):
    """Where a daemon listens, what it demands, and how a client says so."""

    host: Namespace
    transport: str
    family: str
    port: int
    key: Path
    hash: str = "sha256"
    auth: str = "sha256"
    daemon: Daemon | None = None

    @property
    def log(self) -> str:
        """What the daemon has written."""
        return self.daemon.log() if self.daemon else ""

    @property
    def program(self) -> str:
        """The name of the client for this transport."""
        return PROGRAMS[self.transport]

    def options(self, action: str, guest: str = "", /, **changes: object) -> dict[str, object]:
        """Return the options of an honest request, by their stdin names, with *changes*; None leaves one out."""
        where = {"ip_family": self.family} if self.transport == "multicast" else {"ipaddr": ADDRESSES[self.family]}
        same = {"ipport": self.port, "key_file": self.key, "hash": self.hash, "auth": self.auth}
        target = {"port": guest} if guest else {}
        options = {**where, **same, "timeout": 20, "action": action, **target, **changes}
        if self.transport != "multicast":
            options.pop("retrans", None)
        return {name: value for name, value in options.items() if value is not None}

    def states(self) -> dict[str, int]:
        """Return the state of every guest by its name, as libvirt numbers them."""
        with self._ask(wire.LIST) as peer:
            assert peer.converse(self.key.read_bytes(), HASHES[self.auth]) == wire.HOSTS
            return {host.name: host.state for host in peer.hosts()}

    def put(self, guest: str, state: int) -> None:
        """Bring *guest* into *state*, ON or OFF."""
        name = next((name for name, known in GUESTS.items() if known == guest.lower()), guest)
        with self._ask(wire.ON if state == ON else wire.OFF, name) as peer:
            assert peer.converse(self.key.read_bytes(), HASHES[self.auth]) == wire.DONE
        assert self.states()[name] == state

    def _ask(self, request: int, guest: str = "") -> wire.Peer:
        """Return a raw conversation with the daemon, past its request."""
        secret, kind = self.key.read_bytes(), HASHES[self.hash]
        address = ADDRESSES[self.family]
        if self.transport == "tcp":
            peer = self.host.call(wire.connect, address, self.port)
            peer.send(wire.sign(wire.packet(request, guest, kind=kind), secret))
            return peer
        with self.host.call(wire.listen, address, 0) as listener:
            call_back = listener.getsockname()[1]
            packet = wire.sign(wire.packet(request, guest, address=address, port=call_back, kind=kind), secret)
            self.host.call(wire.send_datagram, packet, GROUPS[self.family], self.port, address, BRIDGE)
            called = wire.accept(listener)
        assert called, f"{self} does not call back; its log:\n{self.log}"
        return called


class Client:
    """Programs (name -> path), run on a guest: fence_xvm, fence_virt, perhaps fence_vmfence."""

    def __init__(self, programs: Mapping[str, str], guest: Namespace) -> None:
        self.programs, self.guest = dict(programs), guest

    def ask(self, endpoint: Endpoint, action: str, guest: str = "", /, *flags: str, **changes: object) -> Result:
        """Run the program for *endpoint* with options on its command line, *flags* added."""
        return self.run(endpoint.program, *words(endpoint.options(action, guest, **changes)), *flags)

    def tell(self, endpoint: Endpoint, action: str, guest: str = "", /, **changes: object) -> Result:
        """Run the program for *endpoint* with options on its standard input."""
        return self.run(endpoint.program, stdin=lines(endpoint.options(action, guest, **changes)))

    def called(self, name: str) -> Client:
        """Return a client whose programs are all the one called *name*."""
        return Client(dict.fromkeys(self.programs, self.programs[name]), self.guest)

    def run(self, program: str, *arguments: str, stdin: str | None = None) -> Result:
        """Run one of the programs."""
        return run_client(self.programs[program], arguments, stdin=stdin, netns=self.guest)


def our_programs(folder: Path, vmfence: CommandLine) -> dict[str, str]:
    """Return our agent under its own name, and as symlinks in *folder* under those of the reference."""
    links = {name: folder / name for name in REFERENCE}
    for link in links.values():
        link.symlink_to(vmfence.agent)
    return {"fence_vmfence": vmfence.agent, **{name: str(link) for name, link in links.items()}}


def access_rules(bridge: Bridge, *targets: str) -> str:
    """Return the inside of a groups section: the first guest may fence *targets*, the host itself everything."""
    first = bridge.guests[0]
    everything = (*GUESTS, *GUESTS.values())
    return group(ip=(first.ipv4, first.ipv6), uuid=targets) + group(ip=(HOST_IPV4, HOST_IPV6), uuid=everything)


def group(**entries: tuple[object, ...]) -> str:
    """Return a group of access rules; *entries* are its keys, each with any number of values."""
    settings = " ".join(f'{key} = "{value}";' for key, values in entries.items() for value in values)
    return f"group {{ {settings} }}\n"


class Daemons:
    """Daemons on libvirt's test driver, started when first wanted and kept until *stack* ends.

    Each has the world of GUESTS to itself, running at first, and a port of its own in the host's namespace.
    """

    def __init__(self, bridge: Bridge, folder: Path, stack: ExitStack) -> None:
        self.bridge, self.folder, self.stack = bridge, folder, stack
        self.key = write_key(folder / "key")
        self._known: dict[tuple[str, ...], Endpoint] = {}

    def at(
        self,
        transport: str,
        family: str = "ipv4",
        *,
        hash: str = "sha256",
        auth: str = "sha256",
        groups: str = "",
        guests: tuple[str, ...] = (),
        port: int = 0,
    ) -> Endpoint:
        """Return the endpoint with these settings.

        *groups* is the inside of the groups section, *guests* are names of guests that this daemon has besides GUESTS,
        *port* is any when 0, but never the default port.
        """
        wanted = (transport, family, hash, auth, groups, str(port), *guests)
        if wanted not in self._known:
            port = port or next(_ports)
            folder = self.folder / f"{transport}-{port}"
            folder.mkdir()
            world = {**GUESTS, **{name: str(uuid.uuid4()) for name in guests}}
            endpoint = Endpoint(self.bridge.host, transport, family, port, self.key, hash, auth)
            daemon = self._start(endpoint, folder, driver_uri(folder, world), groups)
            self._known[wanted] = endpoint._replace(daemon=daemon)
        return self._known[wanted]

    def _start(self, endpoint: Endpoint, folder: Path, uri: str, groups: str) -> Daemon:
        raise NotImplementedError


class OurDaemons(Daemons):
    """Ours."""

    def __init__(self, bridge: Bridge, folder: Path, stack: ExitStack, vmfence: CommandLine) -> None:
        super().__init__(bridge, folder, stack)
        self._vmfence = vmfence

    def _start(self, endpoint: Endpoint, folder: Path, uri: str, groups: str) -> Daemon:
        settings = {"hash": endpoint.hash, "auth": endpoint.auth, **_listening(endpoint)}
        extra = 'allow_unauthenticated = "yes";' if "none" in (endpoint.hash, endpoint.auth) else ""
        config = our_config(
            folder, uri, self.key, daemon=extra, groups=groups, listeners={endpoint.transport: settings}
        )
        return self.stack.enter_context(self._vmfence.daemon(config, endpoint.host))


class ReferenceDaemons(Daemons):
    """Real fence_virtd.  Its tcp listener demands auth sha256 whatever is written (D16), so nothing is written."""

    def _start(self, endpoint: Endpoint, folder: Path, uri: str, groups: str) -> Daemon:
        settings = {"hash": endpoint.hash, **_listening(endpoint)}
        if endpoint.transport == "multicast":
            settings["auth"] = endpoint.auth
        config = config_text(endpoint.transport, uri, self.key, groups, **settings)
        return self.stack.enter_context(fence_virtd(config, folder, endpoint.host))


def _listening(endpoint: Endpoint) -> dict[str, object]:
    where = {"interface": BRIDGE} if endpoint.transport == "multicast" else {"address": ADDRESSES[endpoint.family]}
    return {"family": endpoint.family, "port": endpoint.port, **where}
