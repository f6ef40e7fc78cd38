"""The faults that people meet, and which test really produces each: every one has a result, or the reason why not.

Numbers are stable, with gaps.  A case names the command that is asked, the code that it must tell first, and the test,
by its file and the beginning of its name.
"""

from __future__ import annotations

from typing import NamedTuple

_TESTS = {
    "host": "test_host_check.py::test_each_mistake_is_found_under_its_code[{}]",
    "cluster": "test_cluster_check.py::test_each_mistake_is_red_under_its_code[{}]",
    "guest": "test_guest_check.py::{}",
}
_MORE_TESTS = {
    "host": "test_faults_host.py::test_each_fault_is_found_first[{}]",
    "cluster": "test_faults_cluster.py::test_each_fault_is_found_first[{}]",
    "guest": "test_faults_host.py::{}",
}
_FIREWALLD = "test_faults_firewalld.py::test_each_fault_is_found_first_and_its_remedy_mends_it[{}]"
NOTHING = ""  # the code of what must not be told as a fault


class Case(NamedTuple):
    """One way to produce a fault: *command* check must tell *code* first; *test* does it."""

    command: str
    code: str
    test: str

    @property
    def injection(self) -> str:
        """What is done, in words: the name of the injection or of the test."""
        name = self.test.partition("::")[2]
        inner = name.partition("[")[2].rstrip("]")
        return (inner or name.removeprefix("test_")).replace("_", " ")


class Fault(NamedTuple):
    """One fault: its *number*, its *cause*, and its *cases*; without any, *reason* says why."""

    number: int
    cause: str
    cases: tuple[Case, ...]
    reason: str = ""


def _case(command: str, code: str, name: str) -> Case:
    return Case(command, code, _TESTS[command].format(name))


def _firewalld(name: str) -> Case:
    return Case("host", "host-firewall", _FIREWALLD.format(name))


def _more(command: str, code: str, name: str) -> Case:
    return Case(command, code, _MORE_TESTS[command].format(name))


FAULTS = (
    Fault(
        0,
        "none: all is well",
        (
            Case("host", NOTHING, "test_host_check.py::test_a_host_that_was_set_up_is_green"),
            _case("guest", NOTHING, "test_a_healthy_guest_has_nothing_to_worry_about"),
            Case("cluster", NOTHING, "test_cluster_check.py::test_a_cluster_as_add_device_leaves_it_is_green"),
        ),
    ),
    Fault(
        1,
        "the host's firewall drops UDP 1229",
        (
            _firewalld("zone_libvirt_rejects"),
            _firewalld("zone_libvirt_rejects_now"),
            _firewalld("zone_libvirt_will_reject"),
            _firewalld("bridge_of_its_own_in_zone_public"),
            _firewalld("kept_zone_for_the_guest_will_drop"),
            _firewalld("kept_rich_rule_will_drop"),
            _firewalld("kept_policy_will_reject"),
            _firewalld("zone_for_the_guest_drops"),
            _firewalld("rich_rule_drops"),
            _case("host", "host-firewall", "nft_drops_all_but_this_host"),
            _case("host", "host-firewall", "iptables_drops_a_guest"),
            _case("host", "host-firewall", "bridge_drops"),
            _case("host", "host-firewall", "nft_drops"),
            _case("host", "host-firewall", "iptables_drops"),
            _case("guest", "guest-not-heard", "test_the_hosts_firewall_drops_requests"),
        ),
    ),
    Fault(
        2,
        "TCP 1229 is closed in the guest",
        (
            _case("guest", "guest-firewall", "test_the_guests_firewall_stops_the_call_back"),
            _case("host", "host-callback", "callback_refused"),
            _case("host", "host-firewall-back", "way_back_closed"),
            _case("host", "host-firewall-back", "guests_answers_dropped"),
            _case("host", "host-firewall-back", "nothing_established_comes_in"),
        ),
    ),
    Fault(
        3,
        "TCP was opened on the host instead of UDP",
        (_more("host", "host-firewall", "tcp_open_instead_of_udp"), _firewalld("tcp_open_instead_of_udp")),
    ),
    Fault(
        4,
        "wrong interface in the configuration",
        (
            _case("host", "host-interface-missing", "interface_misspelt"),
            _case("host", "host-interface-missing", "interface_is_a_port"),
            _case("host", "host-bridge-unheard", "another_bridge"),
        ),
    ),
    Fault(
        5,
        "the bridge is not there yet, or made anew",
        (
            _case("host", "host-interface-missing", "bridge_gone"),
            _more("guest", "guest-not-heard", "test_fence_virtd_forgets_the_group_with_the_bridge"),
            Case("host", NOTHING, "test_faults_host.py::test_a_network_made_anew_is_joined_again"),
        ),
    ),
    Fault(
        6,
        "host and guest have different keys",
        (
            _case("host", "host-key-stale", "key_replaced"),
            _case("host", "host-key-unusable", "key_short"),
            _case("host", "host-rejected", "wrong_key_of_a_guest"),
            _case("guest", "guest-not-heard", "test_another_key"),
            _case("guest", "guest-hash-weak", "test_a_stronger_hash_is_demanded"),
            _case("guest", "guest-auth-differs", "test_auth_differs"),
            _case("cluster", "cluster-host-silent", "other_key"),
        ),
    ),
    Fault(
        7,
        "it works without a key, or with one open to all",
        (
            _more("host", "host-unauthenticated", "nobody_proves_anything"),
            _case("host", "host-key-unusable", "key_open"),
            _case("guest", "guest-auth-differs", "test_the_reference_has_no_auth"),
            _case("cluster", "cluster-key-open", "key_open"),
        ),
    ),
    Fault(
        8,
        "two hosts answer",
        (
            _case("host", "host-several", "another_host"),
            _case("guest", "guest-hosts-differ", "test_two_hosts_with_different_guests"),
            _case("guest", NOTHING, "test_two_hosts_that_are_silent_about_guests_of_others"),
            _case("cluster", "cluster-hosts-several", "second_host"),
        ),
    ),
    Fault(9, "an unknown guest counts as off", (_case("cluster", "cluster-guest-missing", "misspelt_guest"),)),
    Fault(
        10,
        "nodes and guests do not match",
        (
            _case("cluster", "cluster-node-not-covered", "node_forgotten"),
            _case("cluster", "cluster-fencer-refuses", "node_not_listed"),
            _case("cluster", "cluster-host-map", "comma_in_the_map"),
            _case("cluster", "cluster-guest-twice", "one_guest_for_both"),
            _case("cluster", "cluster-uuid-mismatch", "guests_swapped"),
        ),
    ),
    Fault(
        11,
        "access rules deny by name, UUID or address",
        (
            _case("host", "host-target-unknown", "rule_for_nobody"),
            _more("host", "host-guest-denied", "rules_forget_a_guest"),
            Case("host", NOTHING, "test_faults_host.py::test_rules_by_uuid_hold_for_names"),
            _case("guest", "guest-no-guests", "test_access_rules_name_another_machine"),
            _more("cluster", "cluster-guest-missing", "rules_that_allow_a_node_only_itself"),
        ),
    ),
    Fault(12, "no access rules: any guest fences any", (_more("host", "host-access-open", "no_rules"),)),
    Fault(
        13,
        "the device is stopped after failures",
        (
            _more("cluster", "cluster-device-stopped", "host_was_away_when_the_device_started"),
            _more("cluster", "cluster-device-failed", "start_failed_and_the_device_is_left_so"),
        ),
    ),
    Fault(
        14,
        "fencing is disabled, or has no device",
        (
            _case("cluster", "cluster-fencing-disabled", "fencing_disabled"),
            _case("cluster", "cluster-no-device", "device_disabled"),
        ),
    ),
    Fault(
        15,
        "two nodes fence each other",
        (
            _case("cluster", "cluster-two-node-delay", "no_delay"),
            _case("cluster", "cluster-wait-for-all", "starts_alone"),
        ),
    ),
    Fault(16, "IGMP snooping without a querier", (), "a bridge delivers all the same; it takes a physical switch"),
    Fault(
        17,
        "libvirt does not answer",
        (
            _case("host", "host-libvirt", "libvirt_stopped"),
            _case("host", "host-libvirt", "libvirt_hung"),
            _case("guest", "guest-failed", "test_the_hosts_libvirt_stops_or_hangs"),
        ),
    ),
    Fault(
        18,
        "the guests are in another libvirt",
        (
            _case("host", "host-guests-unseen", "guest_of_nobody"),
            _more("host", "host-guests-unseen", "wrong_libvirt"),
        ),
    ),
    Fault(
        19,
        "the call-back port is taken",
        (
            _case("guest", "guest-port-taken", "test_the_port_is_taken"),
            _more("cluster", "cluster-callback-port", "two_devices_of_fence_xvm"),
        ),
    ),
    Fault(
        20,
        "one stuck request stops the daemon",
        (
            _more("guest", "guest-not-heard", "test_one_stuck_request_stops_fence_virtd"),
            _more("guest", NOTHING, "test_one_stuck_request_delays_nobody_else"),
            _case("host", "host-daemon", "daemon_hung"),
            _case("guest", "guest-not-answered", "test_the_hosts_libvirt_stops_or_hangs"),
        ),
    ),
    Fault(
        21,
        "fenced, and does not come back",
        (_more("cluster", "cluster-node-offline", "guest_that_cannot_start"),),
    ),
    Fault(22, "SELinux denies", (), "it takes a kernel with SELinux"),
    Fault(
        23,
        "there is no key",
        (
            _case("host", "host-key-missing", "key_missing"),
            _case("guest", "guest-key", "test_no_key"),
            _case("cluster", "cluster-key-missing", "key_missing"),
        ),
    ),
    Fault(
        24,
        "the key is weak",
        (
            _case("host", "host-key-weak", "key_typed"),
            _case("guest", "guest-key-weak", "test_a_weak_key"),
            _more("cluster", "cluster-key-weak", "typed_key_everywhere"),
            _case("cluster", "cluster-key-unusable", "key_short"),
        ),
    ),
    Fault(
        25,
        "only the guest was set up",
        (
            _case("guest", "guest-not-heard", "test_no_daemon"),
            _case("cluster", "cluster-host-silent", "daemon_stopped"),
        ),
    ),
    Fault(
        27,
        "the TCP listener is at 127.0.0.1",
        (
            _case("host", "host-address-loopback", "loopback"),
            _case("guest", "guest-unreachable", "test_by_tcp_nobody_listens_or_another_key"),
        ),
    ),
    Fault(
        29,
        "the guest has moved to another host",
        (_more("host", "host-guest-moved", "guest_migrated_away"),),
    ),
    Fault(
        30, "IPv6 addresses that cannot be called back", (), "a guest of the lab has a global one; tested on samples"
    ),
    Fault(
        31,
        "no interface is set, and no route leads to the group",
        (_more("host", "host-multicast-route", "no_interface_and_no_route"),),
    ),
    Fault(32, "no multicast route in the guest", (), "it is no fault: nothing needs that route"),
    Fault(
        33,
        "strict reverse path filter",
        (
            _case("host", "host-rp-filter", "strict_filter"),
            _case("guest", "guest-call-back-blocked", "test_a_call_back_is_seen_although_no_rule_stops_it"),
        ),
    ),
    Fault(34, "the call-back goes astray", (_case("host", "host-route-astray", "routed_away"),)),
    Fault(
        35,
        "a link is down, or macvtap",
        (
            _case("host", "host-interface-down", "bridge_down"),
            _case("host", "host-macvtap", "by_macvtap"),
            _case("host", "host-network-down", "network_down"),
            _case("guest", "guest-link", "test_the_interface_is_down"),
        ),
    ),
    Fault(
        36,
        "timeouts do not add up",
        (_case("cluster", "cluster-timeouts", "agent_slower_than_pacemaker"),),
    ),
    Fault(
        42,
        "names longer than 63 bytes",
        (
            _case("host", "host-name-long", "name_long"),
            _more("cluster", "cluster-name-too-long", "long_name_in_the_map"),
        ),
    ),
)
