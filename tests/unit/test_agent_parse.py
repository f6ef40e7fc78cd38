"""Options of the agent: from the command line and from standard input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmfence.agent.options import OPTIONS, accepted
from vmfence.agent.parse import STDIN_BYTES_MAX, parse_argv, parse_stdin, program_of
from vmfence.agent.settings import Options
from vmfence.protocol.auth import Hash
from vmfence.protocol.request import Action

OURS = "fence_vmfence"


def argv(*words: str, program: str = OURS) -> Options:
    return parse_argv([f"/usr/sbin/{program}", *words])


def stdin(text: str | bytes, program: str = OURS) -> Options:
    return parse_stdin(text if isinstance(text, bytes) else text.encode(), program)


def good(options: Options) -> Options:
    assert [str(fault) for fault in options.faults] == []
    return options


def fault(options: Options) -> str:
    assert len(options.faults) == 1, [str(fault) for fault in options.faults]
    return str(options.faults[0])


def test_defaults_are_those_of_the_reference() -> None:
    options = good(argv("-n", "alpha"))
    assert (options.action, options.target, options.transport) == (Action.REBOOT, "alpha", "multicast")
    assert (options.ipport, options.retrans_s, options.delay_s, options.debug) == (1229, 2.0, 0, 0)
    assert (options.hash, options.auth) == (Hash.SHA256, Hash.SHA256)
    assert options.key_file == "/etc/cluster/fence_xvm.key"
    assert (options.ip_family, options.multicast_address, options.flags) == ("auto", "", 0)


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "status", "-H", "alpha", "-p", "1230", "-u"),
        ("-ostatus", "-Halpha", "-p1230", "-u"),
        ("-duostatus", "-n", "alpha", "-p", "0x4ce"),
        ("--action=status", "--plug=alpha", "--ipport=1230", "--use_uuid"),
        ("--action", "status", "--port", "alpha", "--ipport", "1230", "--use-uuid"),
        ("--option", "STATUS", "--domain", "alpha", "--IPPORT", "1230", "--use_uuid=yes", "--"),
        ("-o", "off", "-o", "status", "-n", "alpha", "-p", "1", "-p", "1230", "-u"),
    ],
)
def test_spellings_of_one_command_line(words: tuple[str, ...]) -> None:
    options = good(argv(*words))
    assert (options.action, options.target, options.ipport, options.flags) == (Action.STATUS, "alpha", 1230, 1)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-Z",), "no option -Z"),
        (("-dZ",), "no option -Z"),
        (("-M", "x"), "no option -M"),
        (("-N", "alpha"), "the nearest is -n"),
        (("--prot=alpha",), "the nearest is --port"),
        (("--atcion", "off"), "the nearest is --action"),
        (("-o",), "option -o has no value. write -o ACTION."),
        (("-n", "alpha", "--action"), "option --action has no value. write --action=ACTION."),
        (("--action=",), "option --action has no value"),
        (("-n", ""), "Invalid domain name"),
        (("off", "-n", "alpha"), "unexpected argument 'off'"),
        (("-n", "alpha", "-"), "unexpected argument '-'"),
        (("-n", "alpha", "--", "-o"), "unexpected argument '-o'"),
        (("-n", "alpha", "-S", "3"), "unexpected argument '3'"),
        (("-n", "alpha", "-n", "alpha"), "may not be specified more than once"),
        (("-n", "alpha", "-H", "beta"), "give one of them, once"),
        (("-h", "-p", "0"), "Invalid port: '0'"),
        (("-V", "more"), "unexpected argument 'more'"),
        (("-o", "of", "-n", "alpha"), "Unsupported operation: of. the nearest is off."),
        (("-o", "validate", "-n", "alpha"), "the nearest is validate-all"),
    ],
)
def test_a_faulty_command_line_is_refused_with_its_name(words: tuple[str, ...], text: str) -> None:
    assert any(text in str(fault) for fault in argv(*words).faults)


@pytest.mark.parametrize(
    ("program", "words", "remedy"),
    [
        ("fence_xvm", ("-T", "10.0.0.1"), "fence_virt has it"),
        ("fence_virt", ("-a", "225.0.0.12"), "fence_xvm has it"),
        ("fence_virt", ("--retrans=3",), "fence_vmfence takes the options of both"),
    ],
)
def test_options_of_the_other_program_are_refused(program: str, words: tuple[str, ...], remedy: str) -> None:
    assert remedy in str(argv(*words, "-n", "alpha", program=program).faults[0])


NUMBERS = [
    ("ipport", "ipport", ["1", "65535", "0x4cd", "0XFFFF"], ["0", "65536", "-1", "01229", "12x", "1 2", "+1", "1_0"]),
    ("retrans", "retrans_s", ["1", "864000"], ["0", "-5", "2.5", "864001", "nan"]),
    ("timeout", "timeout_s", ["1", "30s", "30S", "86400"], ["0", "s", "86401", "1e3", "inf", "30m", "٣"]),
    ("delay", "delay_s", ["0", "5", "7s"], ["-1", "x", "0x", "9" * 30]),
    ("vsock", "vsock", ["2", "3", "4294967294", "0x3"], ["1", "0", "4294967295", "any"]),
]


@pytest.mark.parametrize(("name", "field", "value"), [(n, f, v) for n, f, vs, _ in NUMBERS for v in vs])
def test_numbers_in_range_are_taken(name: str, field: str, value: str) -> None:
    plain = int(value.rstrip("sS"), 16 if value[1:2] in ("x", "X") else 10)
    expected = plain / 10 if name == "retrans" else plain
    assert getattr(good(stdin(f"plug=a\n{name}={value}")), field) == expected


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, _, _, vs in NUMBERS for v in vs])
def test_numbers_out_of_range_or_no_numbers_are_refused(name: str, value: str) -> None:
    assert "it must be a whole number from" in fault(stdin(f"plug=a\n{name}={value}"))


@pytest.mark.parametrize(
    ("text", "debug", "uuid"),
    [
        ("", 0, False),
        ("debug\nuse_uuid", 1, True),
        ("debug\ndebug", 2, False),
        ("debug=3\nuse_uuid=1", 3, True),
        ("debug=-4\nuse_uuid=0", 1, False),
        ("debug=yes\nuse_uuid=On", 1, True),
        ("debug=off\nuse_uuid=false", 0, False),
        ("debug=\nuse_uuid=", 0, False),
        ("debug=5\ndebug=2\nuse_uuid=yes\nuse_uuid=no", 2, False),
    ],
)
def test_switches(text: str, debug: int, uuid: bool) -> None:
    options = good(stdin(f"plug=a\n{text}"))
    assert (options.debug, options.use_uuid) == (debug, uuid)


@pytest.mark.parametrize("text", ["debug=loud", "use_uuid=maybe", "use_uuid=-1"])
def test_a_switch_that_is_neither_on_nor_off_is_refused(text: str) -> None:
    assert "neither yes nor no" in fault(stdin(f"plug=a\n{text}"))


@pytest.mark.parametrize(
    ("text", "action", "target"),
    [
        ("action=status\nport=alpha", Action.STATUS, "alpha"),
        ("action = status\nport = alpha", Action.STATUS, "alpha"),
        (" \taction\t=\tstatus \r\n\tPLUG=alpha\r\n", Action.STATUS, "alpha"),
        ('ACTION="off"\nplug="my guest"', Action.OFF, "my guest"),
        ("option=list-status", Action.LIST, ""),
        ("action=off\noption=on\ndomain=a=b", Action.ON, "a=b"),
        ("# action=off\n   # plug=b\n\n  \naction=monitor", Action.MONITOR, ""),
        ("\ufeffaction=monitor", Action.MONITOR, ""),
        ("plug=" + "x" * 63, Action.REBOOT, "x" * 63),
        ("plug=" + "ä" * 31, Action.REBOOT, "ä" * 31),
        ("plug=tränke\u2028x\naction=off", Action.OFF, "tränke\u2028x"),
        ("action=off\nplug=" + '"' * 3, Action.OFF, '"'),
        ("action=off\nplug=my  guest\t# no comment", Action.OFF, "my  guest\t# no comment"),
        ('action=off\nplug="alpha" # no quotes', Action.OFF, '"alpha" # no quotes'),
    ],
)
def test_stdin_lines(text: str, action: Action, target: str) -> None:
    options = good(stdin(text))
    assert (options.action, options.target, options.warnings) == (action, target, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("action\nport=alpha", "option action has no value. write action=ACTION."),
        ("action=\nport=alpha", "option action has no value"),
        ("action =  \nport=alpha", "option action has no value"),
        ("port", "option port has no value"),
        ("timeout\nplug=a", "option timeout has no value. write timeout=SECONDS."),
        ("action=off", "No domain specified. the action off needs a guest. name it with plug=NAME"),
        ("port=", "Invalid domain name"),
        ('port=""', "Invalid domain name"),
        ("port=alpha\nplug=alpha", "pcmk_host_map"),
        ("domain=alpha\nplug=beta", "pcmk_host_argument"),
        ("plug=" + "x" * 64, "(File name too long). 64 bytes, the wire takes 63. use the guest's UUID."),
        ("plug=" + "ä" * 32, "64 bytes"),
        ("ip_family=ipv6\nmulticast_address=225.0.0.12\naction=list", "Could not determine address family"),
        ("multicast_address=localhost\naction=list", "Could not determine address family"),
        ("multicast_address=10.0.0.1\naction=list", "not a multicast address"),
        ("ipaddr=localhost\naction=list", "is no IP address"),
        ("delay=\nplug=a", "option delay has no value. write delay=SECONDS."),
        ('key_file=""\nplug=a', "option key_file has no value"),
        ("vsock=\nplug=a", "Invalid CID: ''"),
        ("timeout=30 # seconds\nplug=a", "Invalid timeout: '30 # seconds'"),
        ("action=off # not reboot\nplug=a", "Unsupported operation: off # not reboot"),
        ("hash=md5\nplug=a", "Unsupported hash: md5. it must be one of none, sha1, sha256, sha512."),
    ],
)
def test_faulty_stdin_is_refused(text: str, message: str) -> None:
    assert message in fault(stdin(text))


@pytest.mark.parametrize("name", ["ipaddr", "channel_address"])
@pytest.mark.parametrize(
    ("address", "is_good"),
    [
        *((good, True) for good in ("127.0.0.1", "::1", "fe80::1", "fe80::1%eth0", "fe80::1%2")),
        *((bad, False) for bad in ("127.0.0.1%foo", "127.0.0.1%", "fe80::1%", "%eth0", "%", "host%eth0", "1.2.3")),
    ],
)
def test_addresses_are_literal_and_only_those_of_ipv6_have_a_zone(name: str, address: str, is_good: bool) -> None:
    options = stdin(f"plug=a\n{name}={address}")
    if is_good:
        assert getattr(good(options), name) == address
    else:
        assert f"'{address}' is no IP address" in fault(options)


def test_all_faults_are_told_at_once() -> None:
    assert len(stdin("ipport=0\ntimeout=0\nhash=x").faults) == 3


@pytest.mark.parametrize("data", [b"\0", b"action=off\nplug=a\0b", b"\xff\xfea\0c\0"])
def test_a_zero_byte_is_refused(data: bytes) -> None:
    assert "zero byte" in fault(stdin(data))


def test_endless_input_is_refused() -> None:
    padding = b"#" * (STDIN_BYTES_MAX - len(b"plug=alpha\n"))
    good(stdin(b"plug=alpha\n" + padding))
    assert "too long" in str(stdin(b"plug=alpha\n" + padding + b"#").faults[0])


def test_bytes_that_are_no_text_reach_the_wire_as_they_are() -> None:
    assert good(stdin(b"plug=gu\xffst")).target.encode("utf-8", "surrogateescape") == b"gu\xffst"


def test_names_of_pacemaker_are_ignored_silently_others_with_a_warning() -> None:
    silent = "agent=x\nself=y\nnodename=n1\nnodeid=1\nstonith-timeout=9\npcmk_host_map=a:b\ncrm_feature_set=3\n"
    assert good(stdin(silent + "plug=a")).warnings == []
    options = good(stdin("plug=a\nbogus=1\nfoo\n=\n\x1b[2J=1\n"))
    assert options.warnings[0] == "unknown option 'bogus' ignored"
    assert options.warnings[3] == "unknown option '\\x1b[2J' ignored"


@pytest.mark.parametrize(("program", "name"), [("fence_xvm", "ipaddr"), ("fence_virt", "multicast_address")])
def test_names_of_the_other_program_are_ignored_with_a_warning(program: str, name: str) -> None:
    options = good(stdin(f"plug=a\n{name}=nonsense", program))
    assert options.warnings == [f"unknown option '{name}' ignored"]


@pytest.mark.parametrize("name", ["help", "version", "h", "?"])
def test_help_and_version_are_no_names_on_stdin(name: str) -> None:
    assert good(stdin(f"plug=a\n{name}")).warnings == [f"unknown option '{name}' ignored"]


TRANSPORTS = [
    ("fence_xvm", "", "multicast"),
    ("fence_virt", "", "vmchannel"),
    ("fence_virt", "channel_address=10.0.2.1", "vmchannel"),
    ("fence_virt", "serial_device=/dev/ttyS0", "serial"),
    ("fence_virt", "ipaddr=10.0.0.1\nserial_device=/dev/ttyS0", "tcp"),
    ("fence_virt", "ipaddr=::1\nvsock=2", "vsock"),
    (OURS, "", "multicast"),
    (OURS, "multicast_address=225.0.0.13", "multicast"),
    (OURS, "channel_address=10.0.2.1", "vmchannel"),
    (OURS, "serial_device=/dev/ttyS0\nchannel_address=10.0.2.1", "serial"),
    (OURS, "serial_device=/dev/ttyS0\nipaddr=10.0.0.1", "tcp"),
    (OURS, "vsock\nipaddr=10.0.0.1", "vsock"),
    ("fence_other", "serial_params=9600,8N1", "multicast"),
]


@pytest.mark.parametrize(("program", "text", "kind"), TRANSPORTS)
def test_the_transport_follows_from_name_and_parameters(program: str, text: str, kind: str) -> None:
    assert good(stdin(f"plug=a\n{text}", program)).transport == kind


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("", True),
        ("hash=none", True),
        ("auth=none", True),
        ("hash=none\nauth=none", False),
        ("serial_device=/dev/ttyS0", False),
        ("channel_address=10.0.2.1", False),
        ("vsock=2", True),
    ],
)
def test_a_key_is_needed_unless_nothing_is_proven(text: str, needed: bool) -> None:
    assert good(stdin(f"plug=a\n{text}")).needs_key is needed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("action=status", 15), ("action=list", 15), ("action=monitor", 15), ("action=off", 30), ("", 30)]
    + [("action=status\ntimeout=40", 40), ("timeout=4", 4)],
)
def test_timeouts(text: str, seconds: int) -> None:
    assert good(stdin(f"plug=a\n{text}")).timeout_s == seconds


@pytest.mark.parametrize("action", ["off", "on", "reboot", "status", "null"])
def test_actions_that_need_a_guest(action: str) -> None:
    assert "No domain specified" in fault(stdin(f"action={action}"))


@pytest.mark.parametrize("action", ["monitor", "list", "list-status", "metadata"])
def test_actions_without_a_guest(action: str) -> None:
    good(stdin(f"action={action}"))


@pytest.mark.parametrize(("program", "faults"), [("fence_xvm", 1), ("fence_virt", 1), (OURS, 0)])
def test_only_ours_validates_a_device_that_has_no_guest(program: str, faults: int) -> None:
    assert len(stdin("action=validate-all", program).faults) == faults


@pytest.mark.parametrize("words", [("-h",), ("-?",), ("--help",), ("-V",), ("--version",), ("-dh",)])
def test_help_and_version_need_no_guest(words: tuple[str, ...]) -> None:
    options = good(argv(*words))
    assert options.help or options.version


@pytest.mark.parametrize(
    ("path", "program"),
    [("/usr/sbin/fence_xvm", "fence_xvm"), ("fence_virt", "fence_virt"), ("fence_vmfence", OURS)]
    + [("/x/main.py", OURS), ("", OURS), ("/opt/fence_mine", "fence_mine")],
)
def test_the_base_name_decides(path: str, program: str) -> None:
    assert program_of([path]) == program
    assert program_of([]) == OURS


@pytest.mark.parametrize("program", ["fence_xvm", "fence_virt", OURS])
def test_every_option_works_by_letter_long_name_and_stdin(program: str) -> None:
    for option in accepted(program):
        value = "2" if option.kind.content in ("integer", "second") else option.default or "10.0.0.1"
        if option.name in ("debug", "use_uuid"):
            value = "1"
        if option.name == "multicast_address":
            value = "225.0.0.13"
        if option.name == "transport":
            value = "vsock"
        more = () if option.field == "target" else ("-n", "a")
        spelled = [argv(f"--{option.name}={value}", *more, program=program)]
        if option.letter:
            attached = "" if option.name in ("debug", "use_uuid") else value
            spelled.append(argv(f"-{option.letter}{attached}", *more, program=program))
        spelled.append(stdin(f"{option.name}={value}" + ("\nplug=a" if more else ""), program))
        assert len({getattr(good(options), option.field) for options in spelled}) == 1


def test_letters_and_names_are_unique() -> None:
    letters = [option.letter for option in OPTIONS if option.letter]
    assert len(set(letters)) == len(letters)
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)


@given(st.binary(max_size=300))
def test_any_bytes_on_stdin_end_in_options(data: bytes) -> None:
    options = stdin(data)
    assert options.faults or options.target or not options.needs_guest


@given(st.lists(st.text(alphabet="-=ohHnpS?Vd aé\udcff", max_size=6), max_size=5))
def test_any_words_end_in_options(words: list[str]) -> None:
    options = argv(*words)
    assert options.faults or options.help or options.version or options.target or not options.needs_guest
