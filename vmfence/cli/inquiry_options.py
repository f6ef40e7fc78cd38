"""The options that say whom to ask, and how, of every command that asks as the agent does."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

import click

from vmfence.guest import guests

Command = TypeVar("Command", bound=Callable[..., Any])
_HASHES = click.Choice(guests.HASH_NAMES, case_sensitive=False)
_OPTIONS = (
    click.option(
        "-a",
        "--multicast-address",
        "address",
        metavar="ADDRESS",
        default="",
        help="Group to ask (225.0.0.12, or ff05::3:1).",
    ),
    click.option(
        "-i",
        "--ip-family",
        "family",
        type=click.Choice(["auto", "ipv4", "ipv6"]),
        default="auto",
        help="Family of the group, where no address tells it.",
    ),
    click.option("-T", "--ipaddr", metavar="ADDRESS", help="Ask the daemon at this literal address by TCP instead."),
    click.option(
        "-S",
        "--vsock",
        type=click.IntRange(2, 2**32 - 2),
        is_flag=False,
        flag_value=guests.CID,
        metavar="[CID]",
        help=f"Ask over a VM socket; the host is {guests.CID}.",
    ),
    click.option("-D", "--serial-device", metavar="DEVICE", help="Ask through this serial device or virtio port."),
    click.option(
        "-P",
        "--serial-params",
        metavar="PARAMS",
        default="115200,8N1",
        show_default=True,
        help="Speed, data bits, parity and stop bits of the serial device.",
    ),
    click.option("-A", "--channel-address", metavar="ADDRESS", help="Ask through a VM channel with this address."),
    click.option(
        "--transport",
        type=click.Choice(guests.TRANSPORTS),
        help="How to ask, if not as the other options say; auto: vsock, virtio, the serial device given, else "
        "multicast.",
    ),
    click.option(
        "-p",
        "--ipport",
        "port",
        type=click.IntRange(1, 65535),
        default=1229,
        show_default=True,
        help="Port of the daemon, and of its call-back.",
    ),
    click.option(
        "-k",
        "--key-file",
        metavar="FILE",
        default="/etc/cluster/fence_xvm.key",
        show_default=True,
        help="The key shared with the host.",
    ),
    click.option(
        "-c", "--hash", "hash_name", type=_HASHES, default="sha256", show_default=True, help="Hash of the signature."
    ),
    click.option(
        "-C", "--auth", "auth_name", type=_HASHES, default="sha256", show_default=True, help="Hash of the challenges."
    ),
)


def inquiry_options(command: Command) -> Command:
    """Add them; they arrive under the names of the fields of guests.Inquiry."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
