"""What one run of the agent is to do, put together and checked in one place.

Light module (loaded for every fence action: standard library only).  Faults are collected, not raised: the
user sees all of them at once, and the caller decides.  Pure: no file, no clock, no socket.
"""

from __future__ import annotations

from vmfence.agent.options import BY_NAME, OPTIONS, Option, imitates
from vmfence.client.multicast import family_of
from vmfence.client.transport import VIRTIO_PORT, WITHOUT_KEY
from vmfence.errors import UsageError
from vmfence.protocol.auth import Hash
from vmfence.protocol.request import FLAG_UUID, GUEST_ACTIONS, POWER_ACTIONS, Action

QUERY_TIMEOUT_S = 15
POWER_TIMEOUT_S = 30
_FROM_PACEMAKER = (
    "let Pacemaker alone name it: map nodes to guests with pcmk_host_map and set none of plug, port, domain "
    "in the device, or set pcmk_host_argument to the one that you set"
)


class Options:
    """The settings of one run of *program*; times in seconds, *timeout_s* None until check() fills it in.

    *given* holds the names of the options that were given, *faults* what is wrong, *warnings* what was
    ignored.
    """

    __slots__ = (
        "action", "auth", "channel_address", "debug", "delay_s", "faults", "from_stdin", "given", "hash",
        "help", "ip_family", "ipaddr", "ipport", "key_file", "multicast_address", "program", "retrans_s",
        "serial_device", "serial_params", "target", "timeout_s", "transport_named", "use_uuid", "version", "vsock",
        "warnings",
    )  # fmt: skip

    action: Action
    auth: Hash
    channel_address: str
    debug: int
    delay_s: int
    hash: Hash
    help: bool
    ip_family: str
    ipaddr: str
    ipport: int
    key_file: str
    multicast_address: str
    retrans_s: float
    serial_device: str
    serial_params: str
    target: str
    timeout_s: int | None
    transport_named: str
    use_uuid: bool
    version: bool
    vsock: int

    def __init__(self, program: str, *, from_stdin: bool) -> None:
        self.program, self.from_stdin = program, from_stdin
        self.given: list[str] = []
        self.faults: list[UsageError] = []
        self.warnings: list[str] = []
        self.debug, self.vsock, self.timeout_s = 0, 2, None
        self.use_uuid = self.help = self.version = False
        self.channel_address = BY_NAME["channel_address"].shown
        self.multicast_address = self.ipaddr = self.serial_device = self.target = self.transport_named = ""
        for option in OPTIONS:
            if option.default:
                setattr(self, option.field, option.kind.read(option.default))

    @property
    def flags(self) -> int:
        """The flags of the request packet."""
        return FLAG_UUID if self.use_uuid else 0

    @property
    def transport(self) -> str:
        """The kind of transport: the one named, or by the program's name and what was given (fence_virt 4.12.1)."""
        if self.transport_named:
            return self.transport_named
        if self.program == "fence_xvm":
            return "multicast"
        for name, kind in (("vsock", "vsock"), ("ipaddr", "tcp"), ("serial_device", "serial")):
            if name in self.given:
                return kind
        if self.program == "fence_virt" or "channel_address" in self.given:
            return "vmchannel"
        return "multicast"

    @property
    def device(self) -> str:
        """The serial device or virtio port to use; for transport auto the one that was given, if any."""
        proposed = {"serial": BY_NAME["serial_device"].shown, "virtio": VIRTIO_PORT}
        return self.serial_device or proposed.get(self.transport, "")

    @property
    def uses_key(self) -> bool:
        """Whether anything is signed or proven with the key, at least by some way that transport auto may take."""
        nothing_proven = self.hash is Hash.NONE and self.auth is Hash.NONE
        return not nothing_proven and self.transport not in WITHOUT_KEY

    @property
    def needs_key(self) -> bool:
        """Whether the key must be there before a byte is sent; auto has ways without, unless a key is named."""
        return self.uses_key and (self.transport != "auto" or "key_file" in self.given)

    @property
    def validates_key(self) -> bool:
        """Whether the key itself is to be judged without being used.

        Not by the names fence_xvm and fence_virt, whose validate-all looks at no key.
        """
        is_asked = self.action is Action.VALIDATE_ALL and not (self.help or self.version)
        return is_asked and self.needs_key and not imitates(self.program)

    @property
    def needs_guest(self) -> bool:
        """Whether the action makes no sense without a guest.

        As fence_xvm, also validate-all; not for fence_vmfence: a device with pcmk_host_map has no guest of
        its own.
        """
        if self.action is Action.VALIDATE_ALL:
            return imitates(self.program)
        return self.action in GUEST_ACTIONS or self.action is Action.NULL

    def take(self, option: Option, text: str | None) -> None:
        """Take *option* with the value *text* (None: the name alone).  Later ones win, but for guests."""
        try:
            value = option.kind.bare(getattr(self, option.field)) if text is None else option.kind.read(text)
            if option.field == "target" and "target" in self.given:
                raise self._named_twice()
        except UsageError as fault:
            self.faults.append(fault)
            return
        self.given.append(option.field)
        setattr(self, option.field, value)

    def check(self) -> None:
        """Check what concerns more than one option, once all are taken, and fill in the timeout."""
        if self.transport in ("multicast", "auto"):
            self._check_group()
        if self.transport == "tcp" and not self.ipaddr:
            self.faults.append(UsageError("transport tcp needs an address", "", "give the host's with ipaddr"))
        if self.needs_guest and not self.target and not (self.help or self.version or self.faults):
            self.faults.append(self._no_guest())
        if self.timeout_s is None:
            self.timeout_s = POWER_TIMEOUT_S if self.action in POWER_ACTIONS else QUERY_TIMEOUT_S

    def _check_group(self) -> None:
        try:
            family_of(self.ip_family, self.multicast_address)
        except UsageError as fault:
            self.faults.append(fault)

    def _named_twice(self) -> UsageError:
        what = "Domain/UUID may not be specified more than once"
        why = "plug, port and domain (-n, -H) all name the guest"
        return UsageError(what, why, _FROM_PACEMAKER if self.from_stdin else "give one of them, once")

    def _no_guest(self) -> UsageError:
        why = f"the action {self.action} needs a guest"
        remedy = "name it with plug=NAME" if self.from_stdin else "name it with -n NAME"
        return UsageError("No domain specified", why, remedy)
