"""All checks of the host, in the order in which they are shown: a cause before what follows from it."""

from __future__ import annotations

from vmfence.findings import NOTE, WARNING, Check, unread
from vmfence.host.check import (
    checks_daemon,
    checks_exchange,
    checks_firewall,
    checks_guests,
    checks_network,
    checks_pool,
    checks_pool_hosts,
    checks_records,
    checks_rejected,
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
    unread(
        "host-libvirt-unread",
        "libvirt",
        "libvirt can be asked",
        "Each URI has a few seconds. What hangs longer than that is told here.",
    ),
    unread(
        "host-processes-unread",
        "processes",
        "the processes of this host can be looked through",
        "They are read from /proc, and the names of their users from the user database of this host.",
        WARNING,
    ),
    unread(
        "host-holders-unread",
        "holders",
        "it can be seen who has the ports of the listeners",
        "It is read from /proc/net and /proc/PID/fd.",
        WARNING,
    ),
    unread(
        "host-key-unread", "keys", "the keys can be judged", "Key files are opened and judged, never shown.", WARNING
    ),
    unread(
        "host-stale-unread",
        "compared",
        "it can be seen whether files are newer than the daemon",
        "The daemon tells which files it has read, and when.",
        WARNING,
    ),
    unread(
        "host-probe-unread",
        "probes",
        "a request to the listeners can be tried",
        "A request is sent to each listener as a guest does, and has a few seconds for its answer.",
        WARNING,
    ),
    unread(
        "host-firewall-unread",
        "firewall",
        "the firewall can be read in time",
        "firewall-cmd, nft and iptables-save have three seconds each, and all rules together as long as a check may "
        "take. A firewall-cmd that hangs makes host setup and the firewall's own service hang too.",
        WARNING,
    ),
    unread(
        "host-firewall-back-unread",
        "way_back",
        "the rules for what leaves this host can be read",
        "nft and iptables-save show them, as root. One that hangs, or shows what cannot be understood, is told here.",
        WARNING,
    ),
    unread(
        "host-clock-unread",
        "synchronised",
        "it can be asked whether the clock is kept right",
        "It is asked with timedatectl, where systemd runs.",
        WARNING,
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
    checks_daemon.LOST,
    *checks_rejected.CHECKS,
    *checks_daemon.CHECKS,
    *checks_records.CHECKS,
    *checks_setup.CHECKS,
    *READING,
)
