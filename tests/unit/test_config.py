"""Settings: defaults, every fault with its line and remedy, and fence_virtd's files read unchanged."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmfence.config.settings import (
    BackendSettings,
    DaemonSettings,
    GroupSettings,
    MulticastSettings,
    SerialSettings,
    Settings,
    TcpSettings,
    VsockSettings,
    find,
    load,
    read,
)
from vmfence.errors import ConfigError, ConfigErrors
from vmfence.policy import Source
from vmfence.protocol.auth import Hash

# fence-virtd 4.12.1-1, Debian 12: /etc/fence_virt.conf
DEBIAN = b"""fence_virtd {
\tlistener = "multicast";
\tbackend = "libvirt";
}

listeners {
\tmulticast {
\t\tkey_file = "/etc/fence_virt.key";
\t\taddress = "225.0.0.12";
\t\t# Needed on Fedora systems
\t\tinterface = "virbr0";
\t}
}

backends {
\tlibvirt {\x20
\t\turi = "qemu:///system";
\t}
}

"""

# Written by fence_virtd -c on a RHEL 7 family host
WIZARD = b"""backends {
\tlibvirt {
\t\turi = "qemu:///system";
\t}

}

listeners {
\tmulticast {
\t\tport = "1229";
\t\tfamily = "ipv4";
\t\tinterface = "br0";
\t\taddress = "225.0.0.12";
\t\tkey_file = "/etc/cluster/fence_xvm.key";
\t}

}

fence_virtd {
\tmodule_path = "/usr/lib64/fence-virt/";
\tbackend = "libvirt";
\tlistener = "multicast";
}

"""

FULL = b"""# everything at once
Fence_VirtD {
  listener = "multicast, tcp vsock serial";
  backend = "cpg";
  debug = "3"; foreground = "1"; wait_for_backend = "1"; name_mode = "name"; control_socket = "/srv/c";
  allow_unauthenticated = "yes"; unknown_guest = "ignore"; reboot_method = "RESET"; state_dir = "/srv/f";
}
listeners {
  multicast { address = "FF05::3:2"; port = "0x4D0"; hash = "SHA512"; auth = "none"; KEY_FILE = "/k"; }
  tcp { family = "ipv6"; hash = "sha1"; auth = "sha512"; }
  vsock { port = "01230"; }
  serial { uri = "qemu:///session"; path = "/run/fence/"; mode = "vmchannel"; key_file = "/s"; }
}
backends {
  libvirt { }
  cpg { uri = "qemu:///system"; uri1 = "qemu+ssh://b/system"; uri2 = "xen:///"; name_mode = "uuid"; }
}
groups {
  group = "web" { name = "ignored"; ip = "10.0.0.0/8"; ip = "fe80::1%br0"; uuid = "alpha"; uuid = "beta"; }
  group { uuid = "44179d3f-0000-4000-8000-00000000000a"; }
  group { name = "db"; ip = "3"; uuid = "gamma"; key_file = "/etc/cluster/db.key"; }
}
"""

BASE = """fence_virtd { listener = "%s"; backend = "libvirt"; %s
}
listeners {
%s
}
backends { libvirt { uri = "qemu:///system"; } }
%s
"""


def base(listeners: str = "", daemon: str = "", listener: str = "multicast", rest: str = "") -> str:
    """A good file; *daemon* stands on line 1, *listeners* from line 4, *rest* two lines below it."""
    return BASE % (listener, daemon, listeners, rest)


def settings(text: str) -> Settings:
    return read(text.encode(), "f")


def faults(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigErrors) as caught:
        settings(text)
    return [(fault.line, re.sub("^f(:[0-9]+)?: ", "", fault.what), fault.remedy) for fault in caught.value.faults]


def test_debian_package_file() -> None:
    assert read(DEBIAN, "f") == Settings(
        "f",
        DaemonSettings(),
        (MulticastSettings(key_file="/etc/fence_virt.key", interface="virbr0", line=7),),
        BackendSettings("libvirt", ("qemu:///system",), "name", 16),
    )
    assert read(DEBIAN, "f").warnings == ()


def test_file_written_by_the_wizard() -> None:
    found = read(WIZARD, "f")
    assert found.daemon == DaemonSettings(module_path="/usr/lib64/fence-virt/")
    assert found.listeners == (MulticastSettings(interface="br0", line=9),)
    assert found.backend.uris == ("qemu:///system",)
    assert found.groups is None
    assert found.warnings == ()


def test_every_setting() -> None:
    found = read(FULL, "f")
    assert found.daemon == DaemonSettings(3, True, True, "ignore", "reset", "/srv/f", None, True, "/srv/c")
    assert found.listeners == (
        MulticastSettings("/k", Hash.SHA512, Hash.NONE, 1232, 9, False, "ipv6", "ff05::3:2", None),
        TcpSettings(hash=Hash.SHA1, auth=Hash.SHA512, family="ipv6", address="::1", line=10),
        VsockSettings(port=1230, line=11),
        SerialSettings("qemu:///session", "/run/fence/", "vmchannel", "org.vmfence.0", 12),
    )
    uris = ("qemu:///system", "qemu+ssh://b/system", "xen:///")
    assert found.backend == BackendSettings("cpg", uris, "uuid", 16)
    assert found.groups == (
        GroupSettings("web", (Source.parse("10.0.0.0/8"), Source.parse("fe80::1%br0")), ("alpha", "beta"), None, 19),
        GroupSettings("unnamed-2", (), ("44179d3f-0000-4000-8000-00000000000a",), None, 20),
        GroupSettings("db", (Source.parse("3"),), ("gamma",), "/etc/cluster/db.key", 21),
    )


def test_settings_are_frozen_and_comparable() -> None:
    found = read(FULL, "f")
    assert hash(found) == hash(read(FULL, "f"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.path = "g"  # type: ignore[misc]


def test_listeners_without_section_have_the_defaults() -> None:
    text = 'fence_virtd {\nlistener = "serial vsock tcp multicast";\nbackend = "libvirt";\n}\n'
    found = settings(text + 'backends { libvirt { uri = "u"; } }')
    sha256, key = Hash.SHA256, "/etc/cluster/fence_xvm.key"
    assert found.listeners == (
        SerialSettings(None, None, "serial", "org.vmfence.0"),
        VsockSettings(key, sha256, sha256, 1229),
        TcpSettings(key, sha256, sha256, 1229, family="ipv4", address="127.0.0.1"),
        MulticastSettings(key, sha256, sha256, 1229, family="ipv4", address="225.0.0.12", interface=None),
    )


ENDPOINTS = [
    ("multicast", "", ("ipv4", "225.0.0.12")),
    ("multicast", 'family = "ipv6";', ("ipv6", "ff05::3:1")),
    ("multicast", 'address = "239.1.2.3";', ("ipv4", "239.1.2.3")),
    ("multicast", 'address = "FF02:0::1";', ("ipv6", "ff02::1")),
    ("tcp", 'family = "IPv6";', ("ipv6", "::1")),
    ("tcp", 'address = "0.0.0.0";', ("ipv4", "0.0.0.0")),
    ("tcp", 'address = "2001:DB8::1";', ("ipv6", "2001:db8::1")),
    ("tcp", 'address = "fe80::1%br0";', ("ipv6", "fe80::1%br0")),
    ("tcp", 'address = "host-1.example.";', ("ipv4", "host-1.example.")),
    ("tcp", 'address = "host"; family = "ipv6";', ("ipv6", "host")),
]


@pytest.mark.parametrize(("name", "keys", "expected"), ENDPOINTS)
def test_family_and_address(name: str, keys: str, expected: tuple[str, str]) -> None:
    (found,) = settings(base(f"{name} {{ {keys} }}", listener=name)).listeners
    assert isinstance(found, (MulticastSettings, TcpSettings))
    assert (found.family, found.address) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [*((v, True) for v in ("1", "yes", "True", "ON")), *((v, False) for v in ("0", "no", "false", "off"))],
)
def test_booleans(value: str, expected: bool) -> None:
    assert settings(base(daemon=f'wait_for_init = "{value}";')).daemon.wait_for_init is expected


def test_name_mode_of_fence_virtd_is_the_default_of_the_backend() -> None:
    assert settings(base(daemon='name_mode = "uuid";')).backend.name_mode == "uuid"


ALL_DAEMON_KEYS = (
    "known here: listener, backend, module_path, foreground, wait_for_init, wait_for_backend, debug, "
    "name_mode, allow_unauthenticated, unknown_guest, reboot_method, state_dir, control_socket"
)
ALLOW = 'remove the line, or add allow_unauthenticated = "yes"; to fence_virtd'
MIXUP = f"{ALLOW}; fence_virtd in fact used sha256 here, so its clients go on working without the line"
SOURCE = "write an IPv4 or IPv6 address, a network such as 10.0.0.0/8, or a vsock CID"
MERGE = "merge them: fence_virtd would hide the first"
LAST = "remove one: the last one counts."
NO_PORT = "must be a decimal number, or a hexadecimal one that begins with 0x"


def bad(key: str, value: str, place: str, reason: str) -> str:
    return f"bad value \"{value}\" of '{key}' in {place}: {reason}"


def in_multicast(key: str, value: str, reason: str, remedy: str = "") -> tuple[str, list[tuple[int, str, str]]]:
    text = base(f'multicast {{\n{key} = "{value}";\n}}')
    return text, [(5, bad(key, value, "listeners/multicast", reason), remedy)]


def in_tcp(value: str, reason: str, remedy: str = "") -> tuple[str, list[tuple[int, str, str]]]:
    text = base(f'tcp {{\naddress = "{value}";\n}}', listener="tcp")
    return text, [(5, bad("address", value, "listeners/tcp", reason), remedy)]


def in_daemon(key: str, value: str, reason: str, remedy: str = "") -> tuple[str, list[tuple[int, str, str]]]:
    return base(daemon=f'\n{key} = "{value}";'), [(2, bad(key, value, "fence_virtd", reason), remedy)]


def in_group(text: str, what: str, remedy: str) -> tuple[str, list[tuple[int, str, str]]]:
    return base(rest=f"groups {{\ngroup {{\n{text}\n}}\n}}"), [(9, what, remedy)]


MULTICAST_LITERAL = ("must be a literal multicast address", "as 225.0.0.12 or ff05::3:1")
HASHES = "must be none or sha1 or sha256 or sha512"
BLANK_IN_NAME = "an interface name holds no slash, colon or blank"

FAULTS = {
    # names
    "unknown section": (
        base(rest="\nlisteneers { }"),
        [(8, "unknown section 'listeneers'", "did you mean 'listeners'?")],
    ),
    "unknown section, nothing near": (
        base(rest="x { }"),
        [(7, "unknown section 'x'", "known here: fence_virtd, listeners, backends, groups")],
    ),
    "unknown listener section": (
        base("mcast { }\nmultcast { nonsense { } }"),
        [
            (4, "unknown section 'mcast' in listeners", "did you mean 'multicast'?"),
            (5, "unknown section 'multcast' in listeners", "did you mean 'multicast'?"),
        ],
    ),
    "section in a section of settings": (
        base("multicast { x { } }"),
        [(4, "unknown section 'x' in listeners/multicast", "no section may stand in listeners/multicast")],
    ),
    "unknown key": (
        base('multicast {\nadress = "225.0.0.12";\n}'),
        [(5, "unknown key 'adress' in listeners/multicast", "did you mean 'address'?")],
    ),
    "unknown key, nothing near": (
        base(daemon='\nx = "";'),
        [(2, "unknown key 'x' in fence_virtd", ALL_DAEMON_KEYS)],
    ),
    "name_mode of libvirt": (
        base().replace("uri", 'name_mode = "uuid"; uri'),
        [(6, "unknown key 'name_mode' in backends/libvirt", "known here: uri")],
    ),
    "uri0": (
        base().replace('uri = "qemu:///system";', 'uri = "a"; uri0 = "b";'),
        [(6, "unknown key 'uri0' in backends/libvirt", "did you mean 'uri'?")],
    ),
    "stray setting": (
        base(rest='listener = "tcp";'),
        [(7, "setting 'listener' stands outside any section", "move it into its section")],
    ),
    "setting among sections": (
        base('port = "1229";'),
        [
            (
                4,
                "setting 'port' stands in listeners, which holds sections only",
                "move it into one of them: multicast, tcp, vsock, serial",
            )
        ],
    ),
    "section as setting": (
        base('multicast = "225.0.0.12";'),
        [(4, "'multicast' is a section, not a setting", "write multicast { ... }")],
    ),
    "setting as section": (
        base("multicast { port { } }"),
        [(4, "'port' is a setting, not a section", 'write port = "value";')],
    ),
    "fence_virtd twice": (
        base(rest='fence_virtd { listener = "multicast"; backend = "libvirt"; }'),
        [(7, "section fence_virtd is given twice, on lines 1 and 7", MERGE)],
    ),
    "listeners twice": (
        base(rest="Listeners { }"),
        [(7, "section listeners is given twice, on lines 3 and 7", MERGE)],
    ),
    "listeners/multicast twice": (
        base("multicast { }\nMultiCast { }"),
        [(5, "section listeners/multicast is given twice, on lines 4 and 5", MERGE)],
    ),
    "groups twice": (
        base(rest='groups { group { uuid = "a"; } }\ngroups { group { uuid = "b"; } }'),
        [(8, "section groups is given twice, on lines 7 and 8", MERGE)],
    ),
    # fence_virtd
    "no fence_virtd": (
        "listeners { }",
        [
            (
                0,
                "section fence_virtd is missing",
                'add fence_virtd { listener = "multicast"; backend = "libvirt"; }',
            )
        ],
    ),
    "no listener, no backend": (
        "\nfence_virtd { }",
        [
            (2, "'listener' is missing in fence_virtd", 'add listener = "multicast";'),
            (2, "'backend' is missing in fence_virtd", 'add backend = "libvirt";'),
        ],
    ),
    "unknown listener": (
        base(listener="multicast mulitcast"),
        [
            (
                1,
                bad(
                    "listener",
                    "multicast mulitcast",
                    "fence_virtd",
                    "must be multicast or tcp or vsock or serial",
                ),
                "did you mean 'multicast'?",
            )
        ],
    ),
    "listener twice": (
        base(listener="tcp,TCP"),
        [(1, bad("listener", "tcp,TCP", "fence_virtd", "names one of them twice"), "")],
    ),
    "listener without name": (
        base(listener=","),
        [
            (
                1,
                bad("listener", ",", "fence_virtd", "must be multicast or tcp or vsock or serial"),
                "known here: multicast, tcp, vsock, serial",
            )
        ],
    ),
    "two backends": (
        base().replace('"libvirt"', '"libvirt cpg"'),
        [
            (
                1,
                bad("backend", "libvirt cpg", "fence_virtd", "must be libvirt or cpg"),
                "did you mean 'libvirt'?",
            )
        ],
    ),
    "debug": in_daemon("debug", "lots", "must be a decimal number"),
    "debug with words": in_daemon("debug", "1 or so", "must be a decimal number"),
    "debug, long": in_daemon("debug", "9" * 10, "must be a decimal number"),
    "foreground": in_daemon("foreground", "flase", "must be yes or no", "did you mean 'false'?"),
    "wait_for_backend": in_daemon(
        "wait_for_backend", "five", "must be yes or no", "known here: yes, 1, true, on, no, 0, false, off"
    ),
    "allow_unauthenticated": in_daemon("allow_unauthenticated", "yess", "must be yes or no", "did you mean 'yes'?"),
    "unknown_guest": in_daemon("unknown_guest", "ignored", "must be fail or ignore", "did you mean 'ignore'?"),
    "reboot_method": in_daemon("reboot_method", "cycl", "must be cycle or reset", "did you mean 'cycle'?"),
    "name_mode": in_daemon("name_mode", "names", "must be name or uuid", "did you mean 'name'?"),
    "state_dir": in_daemon("state_dir", "var/lib", "must be an absolute path", "begin it with /"),
    "module_path": in_daemon("module_path", " ", "is empty", "give it a value, or remove the line"),
    # listeners
    "empty value": in_multicast("interface", "", "is empty", "give it a value, or remove the line"),
    "port 0": in_multicast("port", "0", "must be from 1 to 65535"),
    "port too high": in_multicast("port", "70000", "must be from 1 to 65535"),
    "port 0x10000": in_multicast("port", "0x10000", "must be from 1 to 65535"),
    "port with sign": in_multicast("port", "-1", NO_PORT),
    "port as word": in_multicast("port", "http", NO_PORT),
    "port in other digits": in_multicast("port", "\u0661", NO_PORT),
    "port with line break": (
        base('multicast { port = "1229\n"; }'),
        [(4, bad("port", "1229\\n", "listeners/multicast", NO_PORT), "")],
    ),
    "hash": in_multicast("hash", "sha265", HASHES, "did you mean 'sha256'?"),
    "auth": in_multicast("auth", "md5", HASHES, "known here: none, sha1, sha256, sha512"),
    "family": in_multicast("family", "ip6", "must be ipv4 or ipv6", "did you mean 'ipv6'?"),
    "no multicast address": in_multicast("address", "192.168.1.1", *MULTICAST_LITERAL),
    "no address": in_multicast("address", "225.0.0.300", *MULTICAST_LITERAL),
    "multicast address with zone": in_multicast(
        "address",
        "ff02::1%br0",
        "a multicast address is written without zone",
        'write address = "ff02::1"; interface = "br0";',
    ),
    "family of another address": (
        base('multicast {\nfamily = "ipv6";\naddress = "225.0.0.12";\n}'),
        [
            (
                6,
                "225.0.0.12 in listeners/multicast is not an address of family ipv6",
                'write family = "ipv4"; or remove the family line',
            )
        ],
    ),
    "interface too long": in_multicast("interface", "x" * 16, "an interface name has at most 15 bytes"),
    "interface with slash": in_multicast("interface", "a/b", BLANK_IN_NAME),
    "interface with blank": in_multicast("interface", "br 0", BLANK_IN_NAME),
    "interface ..": in_multicast("interface", "..", BLANK_IN_NAME),
    "key_file": in_multicast("key_file", "fence.key", "must be an absolute path", "begin it with /"),
    "key_file with line break": (
        base('multicast { key_file = "/k\n"; }'),
        [
            (
                4,
                bad(
                    "key_file",
                    "/k\\n",
                    "listeners/multicast",
                    "holds a line break or another control character",
                ),
                "is its closing quote missing?",
            )
        ],
    ),
    "tcp on a multicast address": in_tcp(
        "225.0.0.12", "nobody can connect to a multicast address", "use an address of this host"
    ),
    "tcp, bad literal": in_tcp("127.0.0.256", "is neither an IPv4 or IPv6 address nor a host name"),
    "tcp, bad IPv6 literal": in_tcp("2001::g", "is neither an IPv4 or IPv6 address nor a host name"),
    "tcp, bad name": in_tcp("a b", "is neither an IPv4 or IPv6 address nor a host name"),
    "serial mode": (
        base('serial { mode = "vmchanel"; }', listener="serial"),
        [
            (
                4,
                bad("mode", "vmchanel", "listeners/serial", "must be serial or vmchannel or virtio"),
                "did you mean 'vmchannel'?",
            )
        ],
    ),
    "serial path": (
        base('serial { path = "run"; }', listener="serial"),
        [(4, bad("path", "run", "listeners/serial", "must be an absolute path"), "begin it with /")],
    ),
    "a listener that is not named is checked": (
        base('vsock { port = "0"; }'),
        [(4, bad("port", "0", "listeners/vsock", "must be from 1 to 65535"), "")],
    ),
    # authentication none
    "multicast hash none": (
        base('multicast {\nhash = "none";\n}'),
        [(5, 'hash = "none" in listeners/multicast lets anybody fence who can reach this host', ALLOW)],
    ),
    "multicast auth none": (
        base('multicast {\nauth = "NONE";\n}', daemon='allow_unauthenticated = "no";'),
        [(5, 'auth = "none" in listeners/multicast lets anybody fence who can reach this host', ALLOW)],
    ),
    "tcp auth none": (
        base('tcp { hash = "none";\nauth = "none"; }', listener="tcp"),
        [
            (4, 'hash = "none" in listeners/tcp lets anybody fence who can reach this host', ALLOW),
            (5, 'auth = "none" in listeners/tcp lets anybody fence who can reach this host', MIXUP),
        ],
    ),
    "vsock auth none": (
        base('vsock { auth = "none"; }', listener="vsock"),
        [(4, 'auth = "none" in listeners/vsock lets anybody fence who can reach this host', MIXUP)],
    ),
    # backends
    "no backend section": (
        'fence_virtd { listener = "serial";\nbackend = "cpg"; }',
        [(2, "'uri' is missing in backends/cpg", 'add uri = "qemu:///system";')],
    ),
    "no uri": (
        'fence_virtd { listener = "serial"; backend = "libvirt"; }\nbackends {\nlibvirt { } }',
        [(3, "'uri' is missing in backends/libvirt", 'add uri = "qemu:///system";')],
    ),
    "uri1 without uri": (
        base().replace("uri =", "uri1 ="),
        [(6, "'uri1' in backends/libvirt without 'uri'", "number the URIs without gaps: uri, uri1, uri2")],
    ),
    "uri3 without uri2": (
        base().replace("uri =", 'uri3 = "c";\nuri1 = "b";\nuri ='),
        [(6, "'uri3' in backends/libvirt without 'uri2'", "number the URIs without gaps: uri, uri1, uri2")],
    ),
    "two URIs in one": (
        base().replace("qemu:///system", "a b"),
        [
            (
                6,
                bad("uri", "a b", "backends/libvirt", "holds a blank"),
                "for several hypervisors use uri, uri1, uri2",
            )
        ],
    ),
    "backends twice": (
        base(rest='backends { libvirt { uri = "a"; } }'),
        [
            (7, "section backends is given twice, on lines 6 and 7", MERGE),
            (
                7,
                "section backends/libvirt is given twice, on lines 6 and 7",
                MERGE,
            ),
        ],
    ),
    # groups
    "no group": (
        base(rest="groups { }"),
        [
            (
                7,
                "section groups without a group",
                'add group { ip = "..."; uuid = "..."; }, or remove the section to allow everything',
            )
        ],
    ),
    "empty groups": (
        base(rest='groups {\ngroup { }\ngroup = "web" { ip = "3"; }\ngroup { name = "db"; key_file = "/k"; } }'),
        [
            (8, "group unnamed-1 allows nothing: it lists no guest", 'add uuid = "name or UUID of a guest";'),
            (9, "group web allows nothing: it lists no guest", 'add uuid = "name or UUID of a guest";'),
            (10, "group db allows nothing: it lists no guest", 'add uuid = "name or UUID of a guest";'),
        ],
    ),
    "group ip": in_group(
        'ip = "host"; uuid = "a";',
        bad("ip", "host", "groups/group", "this is neither an IPv4 nor an IPv6 address"),
        SOURCE,
    ),
    "group ip, second of three": in_group(
        'ip = "1.1.1.1"; ip = "10.0.0.1/8"; ip = "3"; uuid = "a";',
        bad(
            "ip",
            "10.0.0.1/8",
            "groups/group",
            "the address has bits outside the network: 10.0.0.0/8 is meant",
        ),
        SOURCE,
    ),
    "group uuid": in_group(
        'uuid = "a"; uuid = "";',
        bad("uuid", "", "groups/group", "is empty"),
        "give it a value, or remove the line",
    ),
    "group key_file": in_group(
        'uuid = "a"; key_file = "k";',
        bad("key_file", "k", "groups/group", "must be an absolute path"),
        "begin it with /",
    ),
    "group label": (
        base(rest='groups { group = "" { uuid = "a"; } }'),
        [(7, bad("group", "", "groups/group", "is empty"), "give it a value, or remove the line")],
    ),
    "group key": in_group(
        'guest = "a"; uuid = "a";',
        "unknown key 'guest' in groups/group",
        "known here: name, ip, uuid, key_file",
    ),
    # several
    "all faults, in file order": (
        base('multicast { port = "0"; }', daemon='debug = "x";', rest="x { }"),
        [
            (1, bad("debug", "x", "fence_virtd", "must be a decimal number"), ""),
            (4, bad("port", "0", "listeners/multicast", "must be from 1 to 65535"), ""),
            (7, "unknown section 'x'", "known here: fence_virtd, listeners, backends, groups"),
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), FAULTS.values(), ids=FAULTS)
def test_faults(text: str, expected: list[tuple[int, str, str]]) -> None:
    assert faults(text) == expected


def test_authentication_none_is_allowed_when_asked_for_twice() -> None:
    text = base('multicast { hash = "none"; auth = "none"; }', daemon='allow_unauthenticated = "yes";')
    (found,) = settings(text).listeners
    assert isinstance(found, MulticastSettings)
    assert (found.hash, found.auth) == (Hash.NONE, Hash.NONE)


def test_authentication_none_in_a_listener_that_is_not_used_is_harmless() -> None:
    assert settings(base('tcp { auth = "none"; }')).listeners == (MulticastSettings(line=1),)


def test_repeated_key_is_a_warning_and_the_last_one_counts() -> None:
    found = settings(base('multicast {\nport = "1";\nPORT = "2";\n}', daemon='debug = "x"; debug = "1";'))
    assert (found.listeners, found.daemon.debug) == ((MulticastSettings(port=2, line=4),), 1)
    assert [str(warning) for warning in found.warnings] == [
        "f:1: 'debug' is given twice in fence_virtd, on lines 1 and 1. " + LAST,
        "f:6: 'port' is given twice in listeners/multicast, on lines 5 and 6. " + LAST,
    ]


def test_repeated_members_of_a_group_are_no_warning() -> None:
    found = read(FULL, "f")
    assert [warning.line for warning in found.warnings] == [6, 10, 12], (
        "unknown_guest, auth of tcp, key_file of serial, and nothing else"
    )


def test_syntax_fault_is_a_config_error_with_line() -> None:
    with pytest.raises(ConfigError) as caught:
        settings("fence_virtd {\nlistener = multicast;\n}")
    assert caught.value.line == 2


def test_values_in_other_encodings_are_kept() -> None:
    text = base('multicast { key_file = "/k\udcff"; }').encode("utf-8", "surrogateescape")
    (found,) = read(text, "f").listeners
    assert found.key_file == "/k\udcff"


def test_label_is_fit_to_be_shown() -> None:
    text = base(rest='groups { group { name = "\udcff\x85"; uuid = "a"; } }').encode("utf-8", "surrogateescape")
    groups = read(text, "f").groups
    assert groups is not None
    assert groups[0].label == "\\udcff\\x85"


@pytest.mark.parametrize("text", [DEBIAN, WIZARD, FULL], ids=["debian", "wizard", "full"])
def test_every_truncation_is_read_or_refused(text: bytes) -> None:
    for length in range(len(text)):
        try:
            read(text[:length], "f")
        except (ConfigError, ConfigErrors) as error:
            assert str(error).startswith("f:")


@given(st.binary())
def test_random_bytes_are_refused(text: bytes) -> None:
    with pytest.raises((ConfigError, ConfigErrors)):
        read(text, "f")


@given(st.integers(0, len(FULL)), st.integers(0, 20), st.binary(max_size=20))
def test_damaged_file_is_read_or_refused(at: int, length: int, patch: bytes) -> None:
    try:
        read(FULL[:at] + patch + FULL[at + length :], "f")
    except (ConfigError, ConfigErrors) as error:
        assert str(error).startswith("f:")


KEYS = st.sampled_from(re.findall("[a-z0-9_]+(?= =)", FULL.decode()))


@given(KEYS, st.text(st.characters(blacklist_characters='"'), max_size=40))
def test_any_value_is_read_or_refused(key: str, value: str) -> None:
    text = re.sub(f'{key} = "[^"]*"', lambda _: f'{key} = "{value}"', FULL.decode())
    try:
        read(text.encode("utf-8", "replace"), "f")
    except ConfigErrors as error:
        assert all(fault.line for fault in error.faults)


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fence_virt.conf"
    path.write_bytes(DEBIAN)
    assert load(str(path)) == read(DEBIAN, str(path))


def test_load_of_a_missing_file() -> None:
    with pytest.raises(ConfigError) as caught:
        load("/nonexistent/vmfence.conf")
    assert caught.value.line == 0
    assert str(caught.value) == (
        "/nonexistent/vmfence.conf: the configuration file does not exist. create it with: vmfence host setup."
    )


def test_load_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is no regular file. name a configuration file"):
        load(str(tmp_path))


def test_load_of_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match="may not be read. run this as root"):
        load("/etc/fence_virt.conf")


def test_load_of_a_path_that_is_none() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load("a\0b")


def test_load_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="the file is too large: more than 1 MiB"):
        load(str(path))


def test_load_of_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in ("/dev/zero", str(tmp_path / "fifo")):
        with pytest.raises(ConfigError, match="this is no regular file"):
            load(path)


def test_find(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    assert find("/given", (first, second)) == "/given"
    with pytest.raises(ConfigError) as caught:
        find(None, (first, second))
    assert caught.value.remedy == "create it with: vmfence host setup"
    Path(second).touch()
    assert find(None, (first, second)) == second
    os.symlink("nowhere", first)
    assert find(None, (first, second)) == first


def test_auth_of_tcp_that_the_reference_ignored_is_warned_of() -> None:
    text = b"""fence_virtd { listener = "tcp"; backend = "libvirt"; }
listeners { tcp {
    auth = "sha512";
} }
backends { libvirt { uri = "test:///default"; } }
"""
    (warning,) = read(text, "x").warnings
    assert warning.line == 3
    assert "fence_virtd used sha256" in str(warning)


@pytest.mark.parametrize("setting", ['key_file = "/etc/cluster/fence_xvm.key";', 'channel = "org.vmfence.0";'])
def test_what_means_nothing_to_serial_lines_is_warned_of(setting: str) -> None:
    found = settings(base(f"serial {{\n{setting}\n}}", 'allow_unauthenticated = "yes";', "serial"))
    assert found.listeners == (SerialSettings(),)
    (warning,) = found.warnings
    assert warning.line == 5
    assert f"'{setting.split()[0]}' means nothing" in str(warning)


def test_a_key_file_of_serial_lines_must_be_a_path_all_the_same() -> None:
    (fault,) = faults(base('serial { key_file = "fence_xvm.key"; }', 'allow_unauthenticated = "yes";', "serial"))
    assert "bad value" in fault[1]


def test_what_fence_virtd_reads_is_read_alike() -> None:
    """Odd, legal, and seen in the field: numbers for switches, signs, blanks around a port, values of sections."""
    text = base('multicast = "x" { port = " +1401 "; }', daemon='foreground = "2"; wait_for_init = "5"; debug = "-1";')
    found = settings(text)
    assert (found.daemon.foreground, found.daemon.wait_for_init, found.daemon.debug) == (True, True, 0)
    assert found.listeners == (MulticastSettings(port=1401),)
    assert [str(warning) for warning in found.warnings] == [
        "f:4: the value of section listeners/multicast means nothing. write multicast {."
    ]


@pytest.mark.parametrize("target", [" alpha", "{11111111-2222-3333-4444-555555555501}", "1" * 32])
def test_targets_that_match_what_nobody_has_are_warned_of(target: str) -> None:
    found = settings(base(rest=f'groups {{ group {{ ip = "10.0.0.1"; uuid = "{target}"; }} }}'))
    (warning,) = found.warnings
    assert "matches a guest of that very name alone" in str(warning)


def test_a_link_local_source_needs_its_interface() -> None:
    with pytest.raises(ConfigErrors) as caught:
        settings(base(rest='groups { group { ip = "fe80::1"; uuid = "a"; } }'))
    (fault,) = caught.value.faults
    assert "means nothing without its interface" in str(fault)
    assert "fe80::1%br0" in fault.remedy
