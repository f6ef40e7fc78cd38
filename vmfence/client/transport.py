"""How a request travels.

Light module (loaded by the fence agent: standard library only).
"""

from __future__ import annotations

DEFAULT_PORT = 1229
VIRTIO_PORT = "/dev/virtio-ports/org.vmfence.0"
KINDS = ("multicast", "tcp", "vsock", "serial", "virtio", "vmchannel", "auto")
# These know neither signature nor challenge: the hypervisor vouches for the guest (wire, section 11).
WITHOUT_KEY = ("serial", "virtio", "vmchannel")


class Transport:
    """One of KINDS, and what that kind needs.

    *address* is that of the multicast group, the host or the VM channel; *device* a serial device, or a virtio port
    for "virtio"; "auto" uses whatever is there.  *callback_port*: where hosts call back after multicast, 0 for any free
    port, None for *port*.
    """

    __slots__ = (
        "address",
        "callback_port",
        "cid",
        "device",
        "family",
        "kind",
        "line",
        "port",
        "retrans_s",
        "virtio_device",
    )

    def __init__(
        self,
        kind: str,
        *,
        address: str = "",
        port: int = DEFAULT_PORT,
        family: str = "auto",
        retrans_s: float = 2.0,
        cid: int = 2,
        device: str = "",
        line: str = "115200,8N1",
        virtio_device: str = VIRTIO_PORT,
        callback_port: int | None = None,
    ) -> None:
        self.kind, self.address, self.port, self.family, self.retrans_s = kind, address, port, family, retrans_s
        self.cid, self.device, self.line, self.virtio_device = cid, device, line, virtio_device
        self.callback_port = callback_port
