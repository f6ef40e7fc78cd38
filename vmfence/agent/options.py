"""The table of the agent's options: parsers, help, metadata (and by test the man page) all read this one.

Light module (loaded for every fence action: standard library only).  Names, letters, defaults and their order
in the metadata: fence_xvm and fence_virt 4.12.1.  The base name of argv[0] decides which of them are known:
`fence_xvm` and `fence_virt` know their own, every other name knows all.
"""

from __future__ import annotations

from vmfence.agent.values import (
    DAY_S,
    Address,
    Choice,
    Cid,
    Flag,
    Guest,
    Level,
    LineParameters,
    Seconds,
    Tenths,
    Text,
    Whole,
    actions,
    hashes,
)
from vmfence.client.transport import KINDS

OURS = "fence_vmfence"
_FAMILIES = {"auto": "auto", "ipv4": "ipv4", "ipv6": "ipv6"}


class Option:
    """One option.

    *name* is its name on stdin and, after two dashes, on the command line; *letter* its short form, or empty;
    *field* the attribute of Options that takes the value; *value* what help calls the value.  *default* is
    what we use; *shown* is what the metadata of fence_xvm and fence_virt says instead, which for options that
    select a transport by being there is not what happens.
    """

    __slots__ = (
        "default",
        "deprecated",
        "field",
        "kind",
        "letter",
        "name",
        "obsoletes",
        "shown",
        "text",
        "value",
    )

    def __init__(
        self,
        name: str,
        letter: str,
        kind: Text,
        text: str,
        *,
        field: str = "",
        value: str = "",
        default: str = "",
        shown: str = "",
        obsoletes: str = "",
        deprecated: bool = False,
    ) -> None:
        self.name, self.letter, self.kind, self.text, self.value = name, letter, kind, text, value
        self.field = field or name
        self.default, self.shown = default, shown or default
        self.obsoletes, self.deprecated = obsoletes, deprecated

    def words(self, program: str) -> list[str]:
        """Return the values to choose from, or nothing.  null, which only ever fails, is not advertised."""
        words = list(self.kind.words) if isinstance(self.kind, Choice) else []
        return words if imitates(program) else [word for word in words if word != "null"]

    def explained(self, program: str) -> str:
        """Return the text with choices and default."""
        words = ", ".join(self.words(program))
        notes = "; ".join(note for note in (words, self.default and f"default {self.default}") if note)
        return f"{self.text} ({notes})" if notes else self.text

    @property
    def required(self) -> bool:
        """Whether the metadata calls it required: the two names under which Pacemaker sends the guest."""
        return self.name in ("plug", "port")


_GUEST = "Name or UUID of the guest to act on"
OPTIONS = (
    Option("debug", "d", Level(), "Tell on standard error what is being done"),
    Option("ip_family", "i", Choice("Unsupported family: '{}'", _FAMILIES),
           "Address family of the multicast group", value="family", default="auto"),
    Option("multicast_address", "a", Text(),
           "Multicast group to ask (225.0.0.12 or ff05::3:1 if not given)", value="address"),
    Option("ipaddr", "T", Address(),
           "Ask the host at this IP address over TCP", value="address", shown="127.0.0.1"),
    Option("vsock", "S", Cid("Invalid CID", 2, 2**32 - 2),
           "Ask over a VM socket; the value is the host's CID, 2 if not given", value="cid", shown="2"),
    Option("channel_address", "A", Address(),
           "Ask through a VM channel with this address", value="address", shown="10.0.2.179"),
    Option("serial_device", "D", Text(),
           "Ask through this serial device or virtio port", value="device", shown="/dev/ttyS1"),
    Option("serial_params", "P", LineParameters(),
           "Speed, data bits, parity and stop bits of the serial device", value="params",
           default="115200,8N1"),
    Option("ipport", "p", Whole("Invalid port", 1, 65535),
           "Port of the host's daemon, on any network transport", value="port", default="1229"),
    Option("retrans", "r", Tenths("Invalid retransmit time", 1, 10 * DAY_S),
           "Tenths of a second between two multicast packets", field="retrans_s", value="tenths",
           default="20"),
    Option("hash", "c", Choice("Unsupported hash: {}", hashes()),
           "Hash that signs the request", value="hash", default="sha256"),
    Option("auth", "C", Choice("Unsupported auth type: {}", hashes()),
           "Hash by which host and agent prove their key to each other", value="hash", default="sha256"),
    Option("key_file", "k", Text(),
           "File with the key that host and cluster nodes share", value="file",
           default="/etc/cluster/fence_xvm.key"),
    Option("plug", "n", Guest(), _GUEST, field="target", value="guest", obsoletes="port"),
    Option("port", "H", Guest(), f"{_GUEST} (the same as plug)", field="target", value="guest",
           deprecated=True),
    Option("use_uuid", "u", Flag(), "Mark the guest as a UUID, for very old hosts", default="0"),
    Option("action", "o", Choice("Unsupported operation: {}", actions()), "What to do", value="action",
           default="reboot"),
    Option("timeout", "t", Seconds("Invalid timeout", 1, DAY_S),
           "Seconds to wait for the result (if not given: 30 for off, on and reboot, 15 for the others)",
           field="timeout_s", value="seconds", shown="30"),
    Option("delay", "w", Seconds("Invalid delay", 0, DAY_S), "Seconds to wait before off, on or reboot",
           field="delay_s", value="seconds", default="0"),
    Option("transport", "", Choice("Unsupported transport: '{}'", {kind: kind for kind in KINDS}),
           "How to reach the host, if not as the other options say; auto: vsock, virtio port, the serial device if one "
           "is given, else multicast", field="transport_named", value="kind"),
    Option("domain", "", Guest(), f"{_GUEST} (the oldest name of plug)", field="target", value="guest",
           deprecated=True),
)  # fmt: skip
COMMAND_LINE_ONLY = (
    Option("help", "h", Flag(), "Show this and do nothing"),
    Option("version", "V", Flag(), "Show the version and do nothing"),
)
ALIASES = {"option": "action", "?": "help"}  # the old stdin name, and the old letter of help
BY_NAME = {option.name: option for option in OPTIONS + COMMAND_LINE_ONLY}
_ORDER = {
    "fence_xvm": "debug ip_family multicast_address ipport retrans auth hash key_file plug port use_uuid "
    "action timeout delay domain",
    "fence_virt": "debug serial_device serial_params channel_address ipport plug port action timeout ipaddr "
    "vsock auth hash key_file delay domain",
}


def accepted(program: str) -> tuple[Option, ...]:
    """Return the options that *program* takes on stdin, in the order of its metadata."""
    order = _ORDER.get(program)
    return tuple(BY_NAME[name] for name in order.split()) if order else OPTIONS


def imitates(program: str) -> bool:
    """Return whether *program* is one of the two names that must look like the reference."""
    return program in _ORDER


def owner(option: Option) -> str:
    """Return the name under which *option* is known elsewhere, for a remedy."""
    return next((program for program, order in _ORDER.items() if option.name in order.split()), OURS)
