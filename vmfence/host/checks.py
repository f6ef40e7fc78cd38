"""All checks of the host, in the order in which they are shown: a cause before what follows from it."""

from __future__ import annotations

from vmfence.findings import NOTE, WARNING, Check, unread
from vmfence.host import (
    checks_daemon,
    checks_exchange,
    checks_firewall,
    checks_guests,
    checks_network,
    checks_pool,
    checks_pool_hosts,
    checks_records,
    checks_setup,
    scope,
)

READING = (
    unread(
        "host-interfaces-unread",
        "interfaces",
        "the interfaces can be listed",
        "They are listed from /sys/class/net.",
    ),
    unread(
        "host-network-unread",
        "network",
        "groups, routes and neighbours can be read",
        "They are read from /proc/net.",
        WARNING,
    ),
    unread(
        "host-unit-unread",
        "unit",
        "systemd tells how the service stands",
        "It is asked with systemctl, where systemd runs.",
        WARNING,
        scope.read_unit,
    ),
    unread(
        "host-selinux-unread",
        "selinux",
        "SELinux can be asked",
        "It is asked with ausearch, getsebool and matchpathcon, where SELinux is enabled.",
        NOTE,
    ),
)
CHECKS: tuple[Check, ...] = (
    *checks_setup.CONFIGURATION,
    *checks_setup.KEYS,
    *checks_guests.LIBVIRT,
    *checks_network.INTERFACE,
    *checks_pool.COROSYNC,
    checks_daemon.SECOND,
    *checks_daemon.DAEMON,
    checks_setup.KEY_IN_USE,
    checks_pool.JOINED,
    checks_daemon.LISTENER,
    checks_daemon.CHANNEL,
    checks_network.GROUP,
    *checks_firewall.CHECKS,
    *checks_guests.CHECKS,
    *checks_exchange.CHECKS,
    *checks_pool_hosts.CHECKS,
    checks_network.UNSET,
    *checks_daemon.CHECKS,
    *checks_records.CHECKS,
    *checks_setup.CHECKS,
    *READING,
)
