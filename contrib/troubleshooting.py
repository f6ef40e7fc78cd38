"""Writes docs/troubleshooting.md: ``python -m contrib.troubleshooting > docs/troubleshooting.md``.

What a code claims and means comes from the tables of the checks; from the symptom to the code leads SYMPTOMS, here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vmfence.cluster.check.checks import CHECKS as CLUSTER
from vmfence.findings import Check
from vmfence.guest.checks import CHECKS as GUEST
from vmfence.host.check.checks import CHECKS as HOST

GROUPS: dict[str, Sequence[Check]] = {"host": HOST, "guest": GUEST, "cluster": CLUSTER}


class Symptom(NamedTuple):
    """What somebody *sees*, the usual *cause* behind it, and the *codes* that name it, the most likely first."""

    sees: str
    cause: str
    codes: tuple[str, ...]


SYMPTOMS = (
    Symptom(
        "`Timed out waiting for response` in a guest, while it works on the host itself",
        "The host's firewall drops UDP 1229; libvirt's bridges are in a zone of their own",
        ("host-firewall", "guest-not-heard"),
    ),
    Symptom(
        "The same although the port was opened by a guide",
        "TCP 1229 was opened on the host, or UDP in the guest; it is the other way round",
        ("host-firewall", "guest-firewall"),
    ),
    Symptom(
        "`Timed out`; the daemon says that it cannot connect back",
        "The guest's firewall stops TCP 1229, or the host's own does on the way out",
        ("guest-firewall", "guest-call-back-blocked", "host-callback", "host-firewall-back", "guest-firewall-later"),
    ),
    Symptom(
        "`Timed out`, whichever interface is configured",
        "The interface does not exist, is a port of a bridge, or is not that of the guests",
        ("host-interface-missing", "host-bridge-unheard", "host-interface-unset"),
    ),
    Symptom(
        "`Timed out` through a serial line, a virtio port or a VM channel, while the guest's definition has it",
        "Another program holds the socket of the channel: fence_virtd, or a console that was left open",
        ("host-channel-unheard",),
    ),
    Symptom(
        "It stops when libvirt's network is restarted, or after a boot",
        "The bridge was made anew, and the membership in the multicast group went with it",
        ("host-interface-missing", "host-group", "host-network-down", "host-boot", "guest-not-heard"),
    ),
    Symptom(
        "The daemon does not start, or starts and opens nothing: `No such device`",
        "No interface is set and the kernel has no route to the group, or the configuration is faulty",
        ("host-multicast-route", "host-configuration", "host-configuration-refused", "host-listener"),
    ),
    Symptom(
        "`Timed out`; the daemon says `Key mismatch` or `Hash type not strong enough`",
        "Host and guest have different keys, or the daemon has not read the new one, or hash or auth differ",
        (
            "host-key-stale",
            "host-rejected",
            "guest-not-heard",
            "guest-hash-weak",
            "guest-auth-differs",
            "guest-host-unproven",
            "guest-refused",
            "cluster-key-refused",
            "cluster-host-silent",
        ),
    ),
    Symptom(
        "`stat failed on file /etc/cluster/fence_xvm.key`, or no key was ever made",
        "Nothing creates the key or its folder by itself",
        ("host-key-missing", "guest-key", "cluster-key-missing"),
    ),
    Symptom(
        "Everything works, also without a key",
        "Authentication is off, or the key is open to everybody",
        (
            "host-unauthenticated",
            "host-key-unusable",
            "guest-unsigned",
            "cluster-unauthenticated",
            "cluster-key-open",
        ),
    ),
    Symptom(
        "The key is a word, a default of a tool, or a few bytes",
        "It can be guessed from one packet",
        ("host-key-weak", "host-key-unusable", "guest-key-weak", "cluster-key-weak", "cluster-key-unusable"),
    ),
    Symptom(
        "`Operation failed` sometimes, and the list differs from run to run",
        "Several hosts answer, and the fastest wins",
        ("host-several", "guest-hosts-differ", "guest-one-host-failed", "cluster-hosts-several"),
    ),
    Symptom(
        "`Status: OFF` of a guest that runs",
        "The name is misspelt, or the guest is on another host: fence_virtd calls every unknown guest off",
        ("cluster-guest-missing", "cluster-guest-not-running", "host-several"),
    ),
    Symptom(
        "Nobody can fence a node (`No such device`), or the wrong guest is restarted",
        "The host map leads nowhere or elsewhere",
        (
            "cluster-node-not-covered",
            "cluster-fencer-refuses",
            "cluster-host-map",
            "cluster-guest-missing",
            "cluster-guest-twice",
            "cluster-uuid-mismatch",
            "cluster-port-is-node",
        ),
    ),
    Symptom(
        "`Permission denied`, or an empty list, for guests that exist",
        "Access rules name another address, or a guest that is not there",
        ("host-guest-denied", "host-target-unknown", "guest-no-guests", "cluster-host-empty"),
    ),
    Symptom(
        "Any guest can fence any other",
        "There are no access rules; whoever has the key may do all",
        ("host-access-open", "host-unauthenticated"),
    ),
    Symptom(
        "`fence_xvm -o list` answers and shows no guest",
        "The guests are in a libvirt that the daemon does not ask (a user's session), or access rules hide them",
        ("host-guests-unseen", "host-guests-none", "guest-no-guests", "cluster-host-empty"),
    ),
    Symptom(
        "The daemon runs, and nothing is answered",
        "libvirt does not answer, or the daemon hangs, or another one has its port",
        (
            "host-libvirt",
            "host-daemon",
            "host-second-daemon",
            "host-libvirt-lost",
            "guest-failed",
            "guest-not-answered",
        ),
    ),
    Symptom(
        "The guest is attached, and no packet of it arrives",
        "Its link or the bridge is down, or it is attached by macvtap, which never reaches its own host",
        ("host-interface-down", "guest-link", "host-macvtap", "host-network-down"),
    ),
    Symptom(
        "tcpdump on the host shows the request, and the daemon does not get it",
        "The strict reverse path filter: the way back to the guest leads through another interface",
        ("host-rp-filter", "guest-call-back-blocked", "host-firewall"),
    ),
    Symptom(
        "Fencing works after some seconds, or calls another address",
        "A guest with several addresses offers each, and the host cannot reach all of them",
        ("host-route-astray", "guest-addresses", "guest-address"),
    ),
    Symptom(
        "IPv6 does not work",
        "The protocol has no room for the interface of a link-local address",
        ("guest-address",),
    ),
    Symptom(
        "It works for minutes and then stops, with switches between hosts",
        "A switch snoops IGMP and nobody sends queries",
        ("host-snooping",),
    ),
    Symptom(
        "TCP: the guest cannot connect",
        "fence_virtd's TCP listener is at 127.0.0.1 unless told otherwise",
        ("host-address-loopback", "guest-unreachable", "cluster-host-silent"),
    ),
    Symptom(
        "`Failed to listen: Address already in use`",
        "fence_xvm waits at one port, so two of them cannot run on a node at once",
        ("guest-port-taken", "cluster-callback-port"),
    ),
    Symptom(
        "The fence device is `Stopped` in `pcs status`",
        "Its start or monitor failed; it stays so until `pcs stonith cleanup`, also when the cause is gone",
        ("cluster-device-failed", "cluster-device-stopped", "cluster-host-silent", "cluster-agent-missing"),
    ),
    Symptom(
        "Resources do not start, or fencing was switched off as some guide says",
        "The cluster waits for fencing, or does without",
        ("cluster-no-device", "cluster-fencing-disabled", "cluster-device-disabled", "cluster-node-unclean"),
    ),
    Symptom(
        "Both of two nodes die, or fence each other for ever",
        "Neither has a delay, or a node that starts alone fences the other",
        ("cluster-two-node-delay", "cluster-wait-for-all", "cluster-two-node-quorum", "cluster-delay-limited"),
    ),
    Symptom(
        "A node was fenced, and the cluster says that it failed and tries again",
        "The agent has more time than Pacemaker gives it",
        ("cluster-timeouts", "cluster-monitor-timeout", "cluster-last-fencing"),
    ),
    Symptom(
        "A fenced node does not come back",
        "It was switched off and could not be started, which counts as fenced",
        ("cluster-node-offline", "cluster-fencing-action"),
    ),
    Symptom(
        "A guest with a very long name cannot be fenced",
        "A request has room for 63 bytes of the name",
        ("host-name-long", "cluster-name-too-long"),
    ),
    Symptom(
        "After a live migration the host says `Operation failed`, or fencing works only now and then",
        "A host on its own does not know where its guests went; the old one still has the definition",
        ("host-guest-moved", "host-several"),
    ),
    Symptom(
        "`host status`: accepted signatures are not kept, or records of the history are lost",
        "The disk of state_dir is full, read-only, or held by another program",
        ("host-records-unkept",),
    ),
    Symptom(
        "A pool of hosts: every request fails",
        "The daemon is not in its pool: Corosync does not run, its libraries are missing, or the backend was changed",
        ("host-pool-corosync", "host-pool-libraries", "host-pool-joined", "host-daemon"),
    ),
    Symptom(
        "A pool of hosts: status or off of a guest that is off fails",
        "Nobody can vouch for it: votes are not counted or lost, or the list of hosts has a gap",
        ("host-pool-votes", "host-pool-quorum", "host-pool-nodes", "host-pool-away"),
    ),
    Symptom(
        "A pool of hosts: one died, and the cluster waits for its guests for ever",
        "Nobody tells that the host was fenced",
        ("host-pool-away", "host-pool-fencing", "host-pool-fenced-command", "host-pool-names"),
    ),
    Symptom(
        "A pool of hosts: `the name means several guests`, or a guest runs on two hosts",
        "Hosts have guests of one name, or the same guest was started twice",
        ("host-pool-name-twice", "host-pool-guest-twice"),
    ),
    Symptom(
        "A pool of hosts: `Status: OFF` of a guest that runs on another host",
        "A host with fence_virtd was asked, which calls guests off that it does not see",
        ("host-pool-fence-virtd",),
    ),
    Symptom(
        "It works with `setenforce 0`",
        "SELinux denies the daemon or the agent something",
        ("host-selinux",),
    ),
)
HEAD = """\
# Troubleshooting

Written by `python -m contrib.troubleshooting` from the tables of the checks: change those, not this file.

Nearly every fault looks the same from a guest: silence, then `Timed out waiting for response`. So ask both sides, as
root; nothing is changed and nobody is fenced:

    host#   vmfence host check
    guest#  vmfence guest check
    guest#  vmfence cluster check      # on every node

The first error is the cause; what comes after it may follow from it. Every finding shows what was seen and what mends
it, with the names of your system. `--fix` carries out what is without any risk, after a question; `--explain CODE`
tells what is below; `--json`, `--strict`, `--only` and `--skip` are for scripts.

## From the symptom to the code
"""


def document() -> str:
    """Return the whole text of the document."""
    parts = [HEAD, *_symptoms()]
    for group, checks in GROUPS.items():
        parts.append(f"\n## Codes of `vmfence {group} check`\n\nIn the order in which they are shown.\n")
        parts += (_code(check) for check in checks)
    return "\n".join(parts)


def _symptoms() -> Iterator[str]:
    yield "| what is seen | usual cause | codes |\n|---|---|---|"
    for one in SYMPTOMS:
        yield f"| {one.sees} | {one.cause} | {', '.join(f'[{code}](#{code})' for code in one.codes)} |"


def _code(check: Check) -> str:
    story = textwrap.fill(" ".join(check.story.split()), 120, break_on_hyphens=False)
    return f"### {check.code}\n\n*Holds when all is well:* {check.title}.\n\n{story}\n"


if __name__ == "__main__":
    print(document(), end="")
