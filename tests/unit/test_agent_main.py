"""The agent's order of work, with a host that records what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from vmfence.agent.main import main
from vmfence.agent.options import BY_NAME
from vmfence.client.failures import NoAnswer
from vmfence.client.stream import Answer
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.request import Action

SECRET = b"0123456789abcdef" * 2


class Host:
    """Answers every question with *code*, or raises it; keeps the questions and the delays before them."""

    def __init__(self, code: int | BaseException = 0) -> None:
        self.code = code
        self.asked: list[dict[str, Any]] = []
        self.slept: list[float] = []

    def ask(self, action: Action, target: str, transport: Any, key: Key | None, **settings: Any) -> Answer:
        self.asked.append({"action": action, "target": target, "transport": transport, "key": key, **settings})
        if isinstance(self.code, BaseException):
            raise self.code
        return Answer(self.code, [], "10.0.0.1")

    def sleep(self, seconds: float) -> None:
        assert not self.asked
        self.slept.append(seconds)

    def run(self, *words: str, program: str = "fence_vmfence") -> int:
        return main([program, *words], self.ask, self.sleep)


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return str(path)


def test_everything_reaches_the_client(key: str) -> None:
    host = Host()
    network = ("-p", "1230", "-r", "5", "-a", "ff05::9", "-i", "ipv6")
    words = ("-o", "off", "-n", "alpha", "-c", "sha512", "-C", "sha1", "-t", "7", "-u", *network)
    assert host.run(*words, "-k", key) == 0
    question = host.asked[0]
    assert (question["action"], question["target"], question["flags"]) == (Action.OFF, "alpha", 1)
    assert (question["hash_type"], question["auth"], question["timeout_s"]) == (Hash.SHA512, Hash.SHA1, 7)
    assert question["key"] == Key(SECRET)
    transport = question["transport"]
    assert (transport.kind, transport.address, transport.family) == ("multicast", "ff05::9", "ipv6")
    assert (transport.port, transport.retrans_s) == (1230, 0.5)


@pytest.mark.parametrize(
    ("words", "kind", "field", "value"),
    [
        (("-T", "10.0.0.1"), "tcp", "address", "10.0.0.1"),
        (("-S7",), "vsock", "cid", 7),
        (("-S",), "vsock", "cid", 2),
        (("-D", "/dev/ttyS0"), "serial", "device", "/dev/ttyS0"),
        (("-A", "10.0.2.1"), "vmchannel", "address", "10.0.2.1"),
        ((), "multicast", "address", ""),
    ],
)
def test_each_transport_gets_its_own_address(
    key: str, words: tuple[str, ...], kind: str, field: str, value: object
) -> None:
    host = Host()
    assert host.run("-o", "on", "-n", "alpha", "-k", key, *words) == 0
    transport = host.asked[0]["transport"]
    assert (transport.kind, getattr(transport, field)) == (kind, value)


def test_fence_virt_without_more_uses_the_default_channel(key: str) -> None:
    host = Host()
    host.run("-o", "monitor", "-k", key, program="fence_virt")
    assert (host.asked[0]["transport"].kind, host.asked[0]["transport"].address) == ("vmchannel", "10.0.2.179")


@pytest.mark.parametrize("mode", [0o644, 0o604])
def test_without_a_proper_key_nothing_is_sent(key: str, mode: int, capfd: pytest.CaptureFixture[str]) -> None:
    Path(key).chmod(mode)
    host = Host()
    assert host.run("-o", "off", "-n", "alpha", "-k", key) == 1
    assert host.asked == []
    assert f"chmod 0600 {key}" in capfd.readouterr().err


@pytest.mark.parametrize("words", [("-c", "none"), ("-C", "none")])
def test_one_of_hash_and_auth_still_needs_the_key(key: str, words: tuple[str, ...]) -> None:
    Path(key).write_bytes(b"short")
    host = Host()
    assert host.run("-o", "off", "-n", "alpha", "-k", key, *words) == 1
    assert host.asked == []


def test_without_hash_and_auth_no_key_is_read(key: str) -> None:
    Path(key).write_bytes(b"short")
    host = Host()
    assert host.run("-o", "off", "-n", "alpha", "-k", key, "-c", "none", "-C", "none") == 0
    assert host.asked[0]["key"] is None


@pytest.mark.parametrize(
    ("action", "slept"),
    [("off", [9]), ("on", [9]), ("reboot", [9]), ("status", []), ("monitor", []), ("list", []), ("list-status", [])],
)
def test_only_power_actions_are_delayed(key: str, action: str, slept: list[float]) -> None:
    host = Host(253 if action.startswith("list") else 0)
    assert host.run("-o", action, "-n", "alpha", "-w", "9", "-k", key) == 0
    assert host.slept == slept
    assert len(host.asked) == 1


@pytest.mark.parametrize("action", ["metadata", "validate-all", "null"])
def test_local_actions_ask_nobody(action: str, key: str) -> None:
    host = Host()
    assert host.run("-o", action, "-n", "alpha", "-w", "9", "-k", key) == (1 if action == "null" else 0)
    assert (host.asked, host.slept) == ([], [])


def spoil_mode(path: Path) -> None:
    path.chmod(0o644)


def spoil_content(path: Path) -> None:
    path.write_bytes(b"")


def spoil_kind(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


SPOILERS = [
    (spoil_mode, "is not secret"),
    (spoil_content, "the file is empty"),
    (spoil_kind, "not a regular file"),
    (Path.unlink, "No such file"),
]


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize(("spoil", "text"), SPOILERS)
def test_a_key_that_cannot_be_used_is_not_valid(
    key: str,
    spoil: Callable[[Path], None],
    text: str,
    is_named: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also at the default path; fence_xvm and fence_virt only look whether a named one exists."""
    monkeypatch.setattr(BY_NAME["key_file"], "default", key)
    words = ("-o", "validate-all", "-n", "alpha", *(("-k", key) if is_named else ()))
    assert Host().run(*words) == 0
    spoil(Path(key))
    assert Host().run(*words) == 1
    assert text in capfd.readouterr().err
    for name in ("fence_xvm", "fence_virt"):
        more = ("-T", "127.0.0.1") if name == "fence_virt" else ()
        assert Host().run(*words, *more, program=name) == (1 if is_named and spoil is Path.unlink else 0)


@pytest.mark.parametrize("words", [("-c", "none", "-C", "none"), ("-h",), ("-V",)])
def test_a_key_that_is_not_needed_is_not_validated(words: tuple[str, ...], key: str) -> None:
    Path(key).chmod(0o644)
    assert Host().run("-o", "validate-all", "-k", key, *words) == 0


@pytest.mark.parametrize(
    "words",
    [("-o", "off", "-n", "alpha", "-Z"), ("-o", "off", "-n", "alpha", "beta"), ("-o", "off"), ("-n", "a", "-t", "0")],
)
def test_a_faulty_command_asks_nobody(words: tuple[str, ...], key: str) -> None:
    host = Host()
    assert host.run(*words, "-k", key) == 1
    assert host.asked == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NoAnswer("no host answered", "", "look"), "Timed out waiting for response\nOperation failed\nerror: no host"),
        (OSError(101, "Network is unreachable"), "Operation failed\nerror: this system does not let us ask a host."),
        (KeyboardInterrupt(), "error: interrupted"),
        (RuntimeError("boom"), "error: internal error, please report it: RuntimeError: boom"),
        (MemoryError(), "error: internal error"),
    ],
)
def test_whatever_happens_it_is_failure_and_told(
    error: BaseException, text: str, key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Host(error).run("-o", "off", "-n", "alpha", "-k", key) == 1
    out, err = capfd.readouterr()
    assert err.startswith(text)
    assert out == ""
    assert "Traceback" not in err


def test_a_traceback_is_for_debugging(key: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert Host(RuntimeError("boom")).run("-d", "-o", "off", "-n", "alpha", "-k", key) == 1
    assert "Traceback" in capfd.readouterr().err


def test_debugging_tells_the_settings_and_never_the_key(key: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert Host().run("-d", "-o", "status", "-n", "alpha", "-k", key) == 0
    out, err = capfd.readouterr()
    assert out == "Status: ON\n"
    assert "debug: status of 'alpha' by multicast, port 1229" in err
    assert key in err
    assert SECRET.decode() not in err and SECRET.hex() not in err
