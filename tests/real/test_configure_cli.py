"""The wizard as people use it: on a terminal, with piped answers, unattended; with every answer wrong once.

libvirt's test driver stands for the hypervisor and lo for the bridge; the real ones are in tests/interop.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from lab.desk import CUSTOM, GUESTS, NOWHERE, WALK, Desk, Terminal, asked, hung_libvirt, one_error
from lab.ours import CommandLine
from lab.process import run_client
from lab.reference import write_key
from lab.rig import powerless
from vmfence.config import settings
from vmfence.config.settings import MulticastSettings, SerialSettings


@pytest.fixture
def desk(vmfence: CommandLine, tmp_path: Path) -> Desk:
    return Desk(vmfence, tmp_path)


def test_walkthrough_on_a_terminal(desk: Desk) -> None:
    with Terminal(desk.argv) as terminal:
        for prompt, answer in (
            (r"Listener module \[multicast\]: $", ""),
            (r"Multicast IP Address \[225.0.0.12\]: $", ""),
            (r"Multicast IP Port \[1229\]: $", "99999"),
            (r"from 1 to 65535\r\nMulticast IP Port \[1229\]: $", ""),
            (r"bridges of this host:[^$]*Interface \[.*\]: $", "lo"),
            (r"Key File \[/etc/cluster/fence_xvm.key\]: $", str(desk.key)),
            (r"Backend module \[libvirt\]: $", ""),
            (r"Libvirt URI \[.*\]: $", desk.uri),
            (r"libvirt [0-9.]+, 2 guests\r\n", None),
            (r'\+\t+listener = "multicast";', None),
            (r"Write .*/vmfence.conf \[y/N\]\? $", "y"),
        ):
            terminal.expect(prompt)
            terminal.type("" if answer is None else f"{answer}\n")
        status, text = terminal.end()
    assert (status, "\x1b" in text) == (0, False)
    assert "vmfence.conf: written" in text
    assert_walkthrough(desk)


def assert_walkthrough(desk: Desk) -> None:
    found = desk.settings()
    assert found.listeners == (MulticastSettings(key_file=str(desk.key), interface="lo"),)
    assert (found.backend.name, found.backend.uris) == ("libvirt", (desk.uri,))
    assert desk.target.stat().st_mode & 0o7777 == 0o600


def test_walkthrough_by_piped_answers(desk: Desk) -> None:
    done = desk.answer(desk.walk)
    assert done.exit == 0, done
    assert_walkthrough(desk)
    assert asked(done)[:4] == ["Listener module", "Multicast IP Address", "Multicast IP Port", "Interface"]
    assert asked(done)[4:7] == ["Key File", "Backend module", "Libvirt URI"]
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", done.stdout + done.stderr)


def test_the_last_answer_needs_no_line_end(desk: Desk) -> None:
    done = run_client(desk.argv, stdin="\n".join(desk.walk))
    assert done.exit == 0, done


def test_walkthrough_by_options_without_a_terminal(desk: Desk) -> None:
    done = desk.run(*desk.options)
    assert (done.exit, asked(done)) == (0, []), done
    assert_walkthrough(desk)


def test_walkthrough_with_stdin_closed(desk: Desk) -> None:
    done = desk.run(prefix=["sh", "-c", 'exec "$@" <&-', "sh"])
    assert "input ended" in one_error(done)
    assert desk.run(*desk.options, prefix=["sh", "-c", 'exec "$@" <&-', "sh"]).exit == 0


def test_yes_asks_nothing_even_on_a_terminal(desk: Desk) -> None:
    with Terminal([*desk.argv, *desk.options, "--yes"]) as terminal:
        status, text = terminal.end()
    assert status == 0
    assert "]: " not in text
    assert_walkthrough(desk)


def test_all_options_on_a_terminal_still_ask_before_writing(desk: Desk) -> None:
    with Terminal([*desk.argv, *desk.options]) as terminal:
        terminal.expect(r"Write .* \[y/N\]\? $")
        terminal.type("\n")
        status, text = terminal.end()
    assert (status, text.count("error: nothing was changed")) == (1, 1)
    assert desk.unchanged()


# For each question of a listener: wrong answers, and the reason that is given.
BAD = {
    "Listener module": {"multicst": "did you mean 'multicast'", "tcp tcp": "one of them twice", ";": "known here"},
    "Multicast IP Address": {"10.0.0.1": "literal multicast address", "x": "literal", "ff02::1%lo": "without zone"},
    "Multicast IP Port": {"0": "from 1 to 65535", "65536": "from 1 to 65535", "x": "decimal", "-1": "decimal"},
    "Interface": {"l0": "no interface l0", "a/b": "no slash", 'l"o': "double quote", "x" * 16: "at most 15 bytes"},
    "Key File": {"key": "absolute path", "/": "not a regular file", "/dev/zero": "not a regular file"},
    "Backend module": {"libvrt": "did you mean 'libvirt'"},
    "Libvirt URI": {NOWHERE: "cannot connect", "nothing": "cannot connect", "\x01": "control", "a:/// a:///": "twice"},
}


@pytest.mark.parametrize("question", BAD)
def test_bad_answers_are_asked_again_with_the_reason(question: str, desk: Desk) -> None:
    at = list(BAD).index(question)
    done = desk.answer([*desk.walk[:at], *BAD[question], *desk.walk[at:]])
    assert done.exit == 0, done
    assert asked(done).count(question) == 1 + len(BAD[question])
    reasons = re.findall(rf"^{re.escape(question)} .*\n  (.*)", done.stderr, re.MULTILINE)
    for reason, expected in zip(reasons, BAD[question].values()):
        assert expected in reason
    assert_walkthrough(desk)


OTHERS = {
    "tcp": (("TCP Listen IP Address", "224.0.0.1 192.0.2.1 1.2.3 127.0.0.1"), ("TCP Listen Port", "0 99999 1230")),
    "vsock": (("vsock Port", "x 1231"),),
    "serial": (
        *(("Libvirt URI", f"{NOWHERE} test:///default"), ("Socket directory", "here /run/sockets")),
        ("Mode (serial, vmchannel or virtio)", "vm vmchannel"),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_listeners(name: str, desk: Desk) -> None:
    answers = [answer for _, words in OTHERS[name] for answer in words.split()]
    key, rules = ([], ["all"]) if name == "serial" else ([str(desk.key)], [])
    done = desk.answer([name, *answers, *key, "", desk.uri, *rules, "y"])
    assert done.exit == 0, done
    questions = [prompt for prompt, words in OTHERS[name] for _ in words.split()]
    assert asked(done)[1 : 1 + len(questions)] == questions
    assert [listener.name for listener in desk.settings().listeners] == [name]
    shown = " ".join(f"{key}={value}" for key, value in vars(desk.settings().listeners[0]).items())
    for _, words in OTHERS[name]:
        assert words.split()[-1] in shown


SERIAL_MODE = ("--serial-mode", "virtio")
SERIAL = ("--listener", "serial", "--serial-path", "none", "--backend", "libvirt")


def served(desk: Desk) -> None:
    """Check that our daemon starts with the file as it was written, but for where it keeps its state."""
    text = desk.target.read_text()
    own = f'fence_virtd {{ state_dir = "{desk.folder}/state"; control_socket = "{desk.folder}/control";'
    desk.target.write_text(text.replace("fence_virtd {", own, 1))
    with desk.vmfence.daemon(desk.target):
        shown = desk.vmfence.run("host", "status", "-s", f"{desk.folder}/control")
        assert shown.exit == 0, shown


@pytest.mark.parametrize("mode", ["serial", "vmchannel", "virtio"])
def test_the_daemon_takes_a_file_with_a_serial_listener(mode: str, desk: Desk) -> None:
    words = (*SERIAL, "--serial-uri", desk.uri, "--uri", desk.uri, "--serial-mode", mode, "--yes")
    assert desk.run(*words).exit == 0
    (listener,) = desk.settings().listeners
    assert isinstance(listener, SerialSettings) and listener.mode == mode
    (group,) = desk.settings().groups or ()
    assert (group.sources, set(group.targets)) == ((), set(GUESTS.values()))
    served(desk)


def test_virtio_is_serial_in_that_mode(desk: Desk) -> None:
    words = ("--serial-path", "none", "--serial-uri", desk.uri, "--uri", desk.uri, "--backend", "libvirt", "--print")
    texts = [desk.run("--listener", "serial", "--serial-mode", "virtio", *words, "--yes").stdout]
    texts += [desk.run("--listener", "virtio", *more, *words, "--yes").stdout for more in ([], SERIAL_MODE)]
    assert texts[0] and set(texts) == {texts[0]}


def test_virtio_over_a_file_with_another_mode(desk: Desk) -> None:
    where = ("--serial-uri", desk.uri, "--uri", desk.uri, "--yes")
    assert desk.run(*SERIAL, *where).exit == 0
    assert desk.run("--listener", "virtio", *where).exit == 0
    (listener,) = desk.settings().listeners
    assert isinstance(listener, SerialSettings) and listener.mode == "virtio"


@pytest.mark.parametrize(
    "words", [("--listener", "virtio serial"), ("--listener", "virtio", "--serial-mode", "serial")]
)
def test_virtio_and_another_mode_are_a_usage_error(words: tuple[str, ...], desk: Desk) -> None:
    where = ("--serial-path", "none", "--serial-uri", desk.uri, "--uri", desk.uri, "--backend", "libvirt", "--yes")
    one_error(desk.run(*words, *where), 2)
    assert not desk.target.exists()


def test_the_name_of_the_virtio_ports(desk: Desk) -> None:
    words = ("serial", desk.uri, "", "virtio", "\x01", "org.example.fence", "", desk.uri, "", "y")
    done = desk.answer(words)
    assert done.exit == 0, done
    assert asked(done).count("Name of the virtio ports") == 2
    (listener,) = desk.settings().listeners
    assert isinstance(listener, SerialSettings) and listener.channel == "org.example.fence"


@pytest.mark.parametrize(
    ("answer", "guests"),
    [("alpha", ["alpha"]), (GUESTS["beta"].upper(), ["beta"]), ("alpha beta alpha", ["alpha", "beta"])],
)
def test_guests_that_may_fence_each_other(answer: str, guests: list[str], desk: Desk) -> None:
    done = desk.answer(["serial", desk.uri, "", "", "", desk.uri, "alhpa", answer, "y"])
    assert done.exit == 0 and "there is no guest alhpa; did you mean 'alpha'?" in done.stderr, done
    (group,) = desk.settings().groups or ()
    assert list(group.targets) == [GUESTS[name] for name in guests]
    assert "warning: " not in done.stderr


def test_without_rules_it_says_that_the_daemon_will_not_start(desk: Desk) -> None:
    done = desk.run(*SERIAL, "--serial-uri", desk.uri, "--uri", desk.uri, "--serial-guests", "none", "--yes")
    assert done.exit == 0 and "without groups every guest could fence every other" in done.stderr
    assert desk.settings().groups is None


def test_rules_that_are_there_are_left_alone_and_judged(desk: Desk) -> None:
    desk.write(CUSTOM)
    before = desk.settings().groups
    done = desk.run(*SERIAL, "--serial-uri", desk.uri, "--uri", desk.uri, "--serial-mode", "virtio", "--yes")
    assert done.exit == 0 and desk.settings().groups == before
    assert "no group lets in by virtio port org.vmfence.0: alpha, beta" in done.stderr
    options = ("--serial-guests", "all")
    done = desk.run(*SERIAL, "--serial-uri", desk.uri, "--uri", desk.uri, *options, "--yes")
    assert "--serial-guests has no use here" in one_error(done, 2)


def test_a_serial_line_beside_the_network(desk: Desk) -> None:
    """Who has the key may act on the same guests as those behind channels: rules must not shut the network out."""
    serial = ("--listener", "serial", "--serial-uri", desk.uri, "--serial-path", "none", "--serial-mode", "virtio")
    done = desk.run(*desk.options, *serial, "--listener", "vsock", "--vsock-port", "1", "--yes")
    assert done.exit == 0, done
    assert [listener.name for listener in desk.settings().listeners] == ["multicast", "serial", "vsock"]
    channels, network = desk.settings().groups or ()
    assert channels.sources == () and [source.text for source in network.sources] == ["0.0.0.0/0", "::/0"]
    assert set(channels.targets) == set(network.targets) == set(GUESTS.values())


def test_several_listeners_have_one_key(desk: Desk) -> None:
    answers = ["multicast, tcp vsock", "", "", "none", str(desk.key), "127.0.0.1", "", "", "", "", "", desk.uri, "y"]
    done = desk.answer(answers)
    assert done.exit == 0, done
    listeners = desk.settings().listeners
    assert [listener.name for listener in listeners] == ["multicast", "tcp", "vsock"]
    assert {listener.key_file for listener in listeners} == {str(desk.key)}
    assert "only guests with user networking reach a listener on loopback" in done.stderr


def test_ipv6_follows_from_the_address(desk: Desk) -> None:
    assert desk.answer(["", "FF05::3:1", *desk.walk[2:]]).exit == 0
    assert desk.settings().listeners[0].family == "ipv6"  # type: ignore[union-attr]


def test_cpg_asks_how_guests_are_named_and_who_tells_of_fenced_hosts(desk: Desk) -> None:
    answers = ["cpg", desk.uri, "both", "", "relative", "/nowhere", str(desk.key), "/bin/true", "never", "", "y"]
    done = desk.answer([*desk.walk[:5], *answers])
    assert done.exit == 0, done
    backend = desk.settings().backend
    assert (backend.name, backend.name_mode, backend.fenced_command) == ("cpg", "uuid", "/bin/true")
    assert desk.settings().daemon.unknown_guest == "ignore"
    assert "warning: " not in done.stderr
    assert asked(done).count("Program that tells whether a host was fenced") == 4
    assert "/nowhere cannot be run: No such file" in done.stderr and "is not executable" in done.stderr


def test_cpg_by_options(desk: Desk) -> None:
    options = ("--backend", "cpg", "--unknown-guest", "fail", "--name-mode", "name", "--fenced-command")
    done = desk.run(*desk.options, *options, "/bin/true")
    assert (done.exit, asked(done)) == (0, []), done
    assert desk.settings().backend.fenced_command == "/bin/true"
    assert "and on SIGHUP" in done.stdout
    changed = desk.run(*desk.options, *options, "none")
    assert changed.exit == 0 and "so restart it" in changed.stdout
    assert desk.settings().backend.fenced_command is None
    assert "cannot be run" in one_error(desk.run(*desk.options, *options, "/nowhere"), 2)
    assert "--fenced-command has no use here" in one_error(desk.run(*desk.options, *options[4:], "/bin/true"), 2)


def test_a_program_that_others_can_change_is_told(desk: Desk) -> None:
    program = desk.target.parent / "was-fenced"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    options = ("--backend", "cpg", "--name-mode", "name", "--unknown-guest", "ignore", "--fenced-command", str(program))
    done = desk.run(*desk.options, *options)
    assert done.exit == 0 and "others than root can change" in done.stderr


IMPORTED = """fence_virtd { listener = "tcp"; backend = "cpg"; name_mode = "uuid"; module_path = "/usr/lib64/x/"; }
listeners { tcp { key_file = "KEY"; address = "127.0.0.1"; port = "1229"; } }
backends { cpg { uri = "URI"; name_mode = "name"; fenced_command = "/bin/true"; } }
"""


def test_a_pool_that_is_imported_keeps_its_settings(desk: Desk) -> None:
    old = desk.target.parent / "old.conf"
    old.write_text(IMPORTED.replace("URI", desk.uri).replace("KEY", str(desk.key)))
    done = desk.run("--import", str(old), "--yes", "--print")
    assert done.exit == 0, done
    before, after = (settings.read(text, "t") for text in (old.read_bytes(), done.stdout.encode()))
    assert (after.backend, after.daemon, after.listeners) == (before.backend, before.daemon, before.listeners)
    assert 'fenced_command = "/bin/true";' in done.stdout
    changed = desk.run("--import", str(old), "--yes", "--print", "--fenced-command", "none", "--name-mode", "uuid")
    backend = settings.read(changed.stdout.encode(), "t").backend
    assert (backend.fenced_command, backend.name_mode) == (None, "uuid")


def test_several_uris(desk: Desk) -> None:
    desk.write('backends { libvirt { uri = "x:///"; URI1 = "y:///"; uri7 = "z:///"; } } fence_virtd { debug = "1"; }')
    assert desk.run(*desk.options, "--uri", "test:///default").exit == 0
    assert desk.settings().backend.uris == (desk.uri, "test:///default")
    assert not re.search("x:///|y:///|z:///", desk.target.read_text())


BAD_OPTIONS = {
    ("--listener", "udp"): (2, "bad value 'multicast udp' of --listener"),
    ("--address", "10.0.0.1"): (2, "bad value '10.0.0.1' of --address.*literal multicast"),
    ("--family", "ipv6"): (2, "not an address of family ipv6"),
    ("--family", "ipx"): (2, "of --family"),
    ("--port", "0"): (2, "of --port.*from 1 to 65535"),
    ("--port", ""): (2, "--port.*empty"),
    ("--interface", "nosuch"): (1, "no interface nosuch"),
    ("--interface", "a b"): (2, "of --interface"),
    ("--key-file", "key"): (2, "of --key-file.*absolute"),
    ("--key-file", "/dev/null"): (1, "not a regular file"),
    ("--key-file", 'a"b'): (2, "double quote"),
    ("--hash", "md5"): (2, "of --hash"),
    ("--hash", "none"): (1, 'hash = "none".*lets anybody fence'),
    ("--auth", "x"): (2, "of --auth"),
    ("--backend", "xen"): (2, "of --backend"),
    ("--uri", NOWHERE): (4, "cannot connect to libvirt at qemu.*systemctl status"),
    ("--tcp-port", "1"): (2, "--tcp-port has no use here"),
    ("--name-mode", "uuid"): (2, "--name-mode has no use here"),
    ("--unknown-guest", "ignore"): (2, "--unknown-guest has no use here"),
    ("--import", "/nonexistent"): (1, "does not exist"),
    ("--nonsense", "x"): (2, "No such option"),
}


@pytest.mark.parametrize("pair", BAD_OPTIONS, ids=" ".join)
def test_bad_options_change_nothing(pair: tuple[str, str], desk: Desk) -> None:
    exit, pattern = BAD_OPTIONS[pair]
    done = desk.run(*desk.options, "--yes", *pair)
    assert done.exit == exit, done
    assert re.search(pattern, done.stderr), done.stderr
    assert desk.unchanged()


@pytest.mark.parametrize("pair", [("--print", "--dry-run"), ("--from-scratch", "--import=x")])
def test_options_that_exclude_each_other(pair: tuple[str, str], desk: Desk) -> None:
    assert "give one of them" in one_error(desk.run(*desk.options, *pair), 2)


@pytest.mark.parametrize("answers", range(8))
def test_end_of_input_changes_nothing(answers: int, desk: Desk) -> None:
    done = desk.answer(desk.walk[:answers])
    assert "the input ended, so nothing was changed" in one_error(done)
    assert desk.unchanged()


@pytest.mark.parametrize("answers", [0, 3, 7])
@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["ctrl-c", "ctrl-d"])
def test_control_keys_change_nothing(key: str, answers: int, desk: Desk) -> None:
    with Terminal(desk.argv) as terminal:
        for answer in desk.walk[:answers]:
            terminal.expect(r"\][:?] $")
            terminal.type(f"{answer}\n")
        terminal.expect(r"\][:?] $")
        terminal.type(key)
        status, text = terminal.end()
    assert (status, text.count("error: "), "Traceback" in text) == (1, 1, False)
    assert desk.unchanged()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signals_change_nothing(number: signal.Signals, desk: Desk) -> None:
    desk.write(f"# mine\n{CUSTOM}")
    with Terminal(desk.argv) as terminal:
        terminal.expect(r"Multicast IP Address|Listener module")
        os.kill(terminal.pid, number)
        terminal.end()
    assert desk.unchanged()


def test_the_end_of_input_ends_the_question_within_a_question_too(desk: Desk) -> None:
    """The key does not exist, and whether to make one is asked while that answer is checked."""
    with Terminal(desk.argv) as terminal:
        for answer in (*WALK, str(desk.folder / "new.key")):
            terminal.expect(r"\][:?] $")
            terminal.type(f"{answer}\n")
        terminal.expect(r"Make one \[Y/n\]\? $")
        terminal.type("\x04")
        status, text = terminal.end()
    assert (status, text.count("error: "), "Key File" in text) == (1, 1, False)
    assert desk.unchanged()


def test_no_is_an_answer(desk: Desk) -> None:
    assert one_error(desk.answer([*desk.walk[:-1], "n"])) == "error: nothing was changed."
    assert one_error(desk.answer([*desk.walk[:-1], ""])) == "error: nothing was changed."
    assert desk.unchanged()


def test_a_missing_key_is_made_after_the_last_question(desk: Desk) -> None:
    new = desk.folder / "cluster" / "new.key"
    answers = [*WALK, str(new), "y", "", desk.uri]
    assert one_error(desk.answer([*answers, "n"]))
    assert desk.unchanged()
    done = desk.answer([*answers, "y"])
    assert done.exit == 0, done
    assert new.stat().st_size == 4096
    assert "made, SHA256" in done.stdout
    assert (new.stat().st_mode & 0o777, new.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_key_that_shall_not_be_made_is_asked_for_again(desk: Desk) -> None:
    done = desk.answer([*WALK, str(desk.folder / "no.key"), "n", *desk.walk[4:]])
    assert done.exit == 0, done
    assert not (desk.folder / "no.key").exists()
    assert asked(done).count("Key File") == 2


def test_a_weak_key_is_told(desk: Desk) -> None:
    write_key(desk.key, b"0123456789abcdef")
    assert "warning: " in desk.run(*desk.options).stderr


def test_what_is_not_asked_about_stays(desk: Desk) -> None:
    text = desk.write(f"# a comment\n{CUSTOM}")
    before = desk.settings()
    done = desk.run("--yes", "--port", "1230", "--key-file", str(desk.key))
    assert done.exit == 0, done
    after = desk.settings()
    assert (after.groups, after.daemon) == (before.groups, before.daemon)
    assert str(after.listeners[0].hash) == "sha512"  # type: ignore[union-attr]
    assert 'port = "1400";' in desk.target.read_text()
    [copy] = [name for name in desk.files() if re.fullmatch(r"vmfence\.conf\.\d{8}-\d{6}", name)]
    assert (desk.folder / copy).read_text() == text
    assert copy in done.stdout
    assert '+\t\tport = "1230";' in done.stdout


def test_a_second_run_changes_nothing_and_says_so(desk: Desk) -> None:
    desk.run(*desk.options)
    desk.write(f"# laid out by hand\n{desk.target.read_text()}")
    before = desk.target.stat()
    done = desk.run("--yes")
    assert (done.exit, done.stdout) == (0, f"{desk.target}: nothing to change\n")
    assert desk.answer([""] * 7).stdout == done.stdout
    after = desk.target.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
    assert desk.unchanged()


def test_defaults_are_the_values_there_are(desk: Desk) -> None:
    desk.write(CUSTOM.replace('port = "1229";', 'port = "0x4ce"; address = "ff05::9"; interface = "lo";'))
    done = desk.answer([])
    assert "Listener module [multicast]: " in done.stderr
    done = desk.answer([""] * 4)
    for shown in ("Address [ff05::9]", "Port [0x4ce]", "Interface [lo]"):
        assert shown in done.stderr


def test_print_writes_the_text_and_nothing_else(desk: Desk) -> None:
    done = desk.run(*desk.options, "--yes", "--print", "--key-file", str(desk.folder / "new.key"))
    assert (done.exit, settings.read(done.stdout.encode(), "x").listeners[0].name) == (0, "multicast")
    assert desk.unchanged()
    done = desk.answer(desk.walk[:-1], "--print")
    assert settings.read(done.stdout.encode(), "x").backend.uris == (desk.uri,)
    assert desk.unchanged()


def test_what_the_daemon_refuses_is_a_warning_whether_or_not_something_is_written(desk: Desk) -> None:
    """A key that is to be made is no reason for it, and hides no other."""
    missing = desk.folder / "group.key"
    desk.write(CUSTOM.replace('group = "web" {', f'group = "web" {{ key_file = "{missing}";'))
    refusal = rf"warning: vmfence's own daemon will not start with this: .*cannot read the key {missing}"
    for key in (desk.key, desk.folder / "new.key"):
        for how in ("--print", "--dry-run"):
            done = desk.run("--yes", how, "--interface", "lo", "--uri", desk.uri, "--key-file", str(key))
            assert (done.exit, len(re.findall(refusal, done.stderr))) == (0, 1), done
    done = desk.run("--yes", "--interface", "lo", "--uri", desk.uri, "--key-file", str(desk.folder / "new.key"))
    assert (done.exit, len(re.findall(refusal, done.stderr))) == (0, 1), done
    write_key(missing)
    done = desk.run("--yes", "--print", "--key-file", str(desk.folder / "newer.key"), "--uri", desk.uri)
    assert (done.exit, "will not start" in done.stderr) == (0, False), done


def test_dry_run_shows_the_difference_and_changes_nothing(desk: Desk) -> None:
    desk.write(CUSTOM)
    done = desk.run("--yes", "--dry-run", "--port", "1230", "--key-file", str(desk.folder / "new.key"))
    assert (done.exit, '+\t\tport = "1230";' in done.stdout) == (0, True), done
    assert desk.unchanged()


def test_import_starts_from_another_file(desk: Desk) -> None:
    old = desk.folder / "fence_virt.conf"
    text = CUSTOM.replace('"/s"', '"/t"')
    old.write_text(text)
    done = desk.run("--import", str(old), "--yes", "--key-file", str(desk.key))
    assert done.exit == 0, done
    assert desk.settings().daemon.state_dir == "/t"
    assert old.read_text() == text


def test_an_imported_file_is_not_the_one_written(desk: Desk) -> None:
    old = desk.folder / "fence_virt.conf"
    old.write_text(CUSTOM)
    argv = [desk.vmfence.vmfence, "host", "configure", "--import", str(old), "--dry-run", "--yes"]
    done = run_client([*argv, "--key-file", str(desk.key)])
    assert "+++ /etc/vmfence.conf (new)" in done.stdout, done


BROKEN = 'fence_virtd { listener = "multicast"\n'


def test_a_broken_file_is_never_replaced_without_a_word(desk: Desk) -> None:
    desk.write(BROKEN)
    assert "--from-scratch" in one_error(desk.run(*desk.options, "--yes"))
    assert one_error(desk.answer(["n", *desk.walk]))
    assert one_error(desk.answer(["", *desk.walk]))
    assert desk.unchanged()
    assert desk.target.read_text() == BROKEN


@pytest.mark.parametrize("way", ["answer", "option"])
def test_a_broken_file_is_replaced_when_asked_for(way: str, desk: Desk) -> None:
    desk.write(BROKEN)
    done = desk.answer(["y", *desk.walk]) if way == "answer" else desk.run(*desk.options, "--from-scratch", "--yes")
    assert done.exit == 0, done
    assert_walkthrough(desk)


def test_faults_that_no_question_mends_are_told_first_and_stop_it(desk: Desk) -> None:
    desk.write(CUSTOM.replace("unknown_guest", "unknown_gast"))
    done = desk.run("--yes", "--port", "1230", "--key-file", str(desk.key))
    assert "did you mean 'unknown_guest'" in one_error(done)
    assert "warning: " in done.stderr
    assert desk.unchanged()


def test_a_fault_that_a_question_mends_is_mended(desk: Desk) -> None:
    desk.write(CUSTOM.replace("1229", "99999"))
    done = desk.run("--yes", "--port", "1230", "--key-file", str(desk.key))
    assert done.exit == 0, done
    assert "warning: " in done.stderr


def test_a_present_value_that_is_wrong_here_is_told_when_nobody_is_asked(desk: Desk) -> None:
    desk.write(CUSTOM.replace('hash = "sha512";', 'interface = "nosuch";'))
    assert "no interface nosuch" in one_error(desk.run("--yes"))
    desk.write(CUSTOM.replace("1229", "99999"))
    assert re.search(
        "'99999' cannot be used for: Multicast IP Port.*give another with --port", desk.run("--yes").stderr
    )


def test_without_a_bridge_nobody_chooses_the_interface(desk: Desk) -> None:
    options = [word for pair in zip(desk.options[::2], desk.options[1::2]) if pair[0] != "--interface" for word in pair]
    assert "give --interface" in one_error(desk.run(*options, "--yes"))
    assert desk.run(*options, "--interface", "none", "--yes").exit == 0
    assert desk.run("--yes").exit == 0  # what was decided once holds


def test_a_change_by_somebody_else_is_not_lost(desk: Desk) -> None:
    desk.write(CUSTOM)
    with Terminal([*desk.argv, *desk.options]) as terminal:
        terminal.expect(r"Replace .* \[y/N\]\? $")
        text = desk.write("# somebody else was faster\n")
        terminal.type("y\n")
        status, shown = terminal.end()
    assert (status, "was changed meanwhile" in shown) == (1, True)
    assert desk.target.read_text() == text
    assert desk.unchanged()


def test_a_closed_folder_is_told_before_anything_is_asked(desk: Desk) -> None:
    desk.folder.chmod(0o555)
    try:
        done = desk.answer(desk.walk, prefix=powerless())
    finally:
        desk.folder.chmod(0o755)
    assert "may not be written" in one_error(done, 3)
    assert asked(done) == []
    assert desk.unchanged()


def test_a_file_that_may_not_be_read(desk: Desk) -> None:
    desk.write(CUSTOM)
    desk.target.chmod(0)
    assert "may not be read" in one_error(desk.answer(desk.walk, prefix=powerless()), 3)


def test_a_folder_that_is_not_there(desk: Desk) -> None:
    desk.target = desk.folder / "none" / "vmfence.conf"
    assert "mkdir -p" in one_error(desk.answer(desk.walk))


def test_a_folder_as_configuration(desk: Desk) -> None:
    desk.target = desk.folder
    assert one_error(desk.answer(desk.walk))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_another_user_may_not_write(desk: Desk) -> None:
    desk.write(CUSTOM)
    for folder in (desk.folder, *desk.folder.parents):
        if folder.stat().st_uid == 0 and folder != Path("/tmp") and Path("/tmp") in folder.parents:
            folder.chmod(0o755)
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert "may not be written" in one_error(desk.run("--yes", prefix=prefix), 3)
    assert desk.target.read_text() == CUSTOM


def test_a_file_that_cannot_grow(desk: Desk) -> None:
    text = desk.write(CUSTOM)
    done = desk.run(*desk.options, "--yes", prefix=["prlimit", "--fsize=50"])
    assert "File too large" in one_error(done)
    assert desk.target.read_text() == text
    assert desk.unchanged()


@pytest.mark.system
def test_a_full_disk(desk: Desk) -> None:
    script = f"""
        mkdir {desk.folder}/disk && mount -t tmpfs -o size=4k tmpfs {desk.folder}/disk && cd {desk.folder}/disk
        printf %s "$0" >vmfence.conf
        "$@" -f {desk.folder}/disk/vmfence.conf; echo "exit $?"; ls -A; cat vmfence.conf"""
    argv = [desk.vmfence.vmfence, "host", "configure", "--yes", *desk.options]
    done = run_client(["unshare", "--mount", "sh", "-c", script, CUSTOM, *argv])
    assert "No space left on device" in done.stderr, done
    assert done.stdout.endswith(f"exit 1\nvmfence.conf\n{CUSTOM}")


KILLED = """
import os, signal, sys
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv.pop(1), die)
from vmfence.cli.entry import main
sys.exit(main())
"""


@pytest.mark.parametrize("step", ["fsync", "link", "replace"])
def test_killed_while_writing(step: str, desk: Desk) -> None:
    desk.write(CUSTOM)
    argv = [sys.executable, "-c", KILLED, step, *desk.argv[1:], *desk.options, "--yes"]
    assert run_client(argv).exit == -signal.SIGKILL
    assert desk.target.read_text() == CUSTOM
    assert desk.run(*desk.options, "--yes").exit == 0
    assert desk.settings().listeners[0].key_file == str(desk.key)


def test_a_libvirt_that_hangs_hangs_nothing(desk: Desk) -> None:
    with hung_libvirt(desk.folder) as uri:
        done = desk.run(*desk.options[:-2], "--uri", uri, "--yes")
    assert "no answer within 10 s" in one_error(done, 4)
