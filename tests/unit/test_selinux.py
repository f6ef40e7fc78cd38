"""What the tools of SELinux tell, from fakes that write and exit as those of RHEL 9 do (audit 3.1, libselinux 3.6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmfence import proc
from vmfence.host.check import selinux
from vmfence.host.check.selinux import SELinux

KEY, CONFIG = "fence_xvm.key", "fence virt.conf"
DENIED = """\
----
time->Mon Nov 23 14:02:11 2026
type=PROCTITLE msg=audit(1795442531.404:812): proctitle=2F7573722F62696E2F707974686F6E33002D73002F7573722F62696E
type=SOCKADDR msg=audit(1795442531.404:812): saddr=020004CD0A58000B0000000000000000
type=SYSCALL msg=audit(1795442531.404:812): arch=c000003e syscall=42 success=no exit=-13 a0=c a1=7ffd8a3c5f90 a2=10 \
a3=0 items=0 ppid=1 pid=4711 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) \
ses=4294967295 comm="vmfence" exe="/usr/bin/python3.9" subj=system_u:system_r:fenced_t:s0 key=(null)
type=AVC msg=audit(1795442531.404:812): avc:  denied  { name_connect } for  pid=4711 comm="vmfence" dest=1229 \
scontext=system_u:system_r:fenced_t:s0 tcontext=system_u:object_r:zented_port_t:s0 tclass=tcp_socket permissive=0
----
time->Mon Nov 23 14:02:15 2026
type=AVC msg=audit(1795442535.120:813): avc:  denied  { read open } for  pid=4711 comm="fence_virtd" \
path="/etc/cluster/fence_xvm.key" dev="dm-0" ino=8704 scontext=system_u:system_r:fenced_t:s0 \
tcontext=unconfined_u:object_r:user_home_t:s0 tclass=file permissive=1
----
time->Mon Nov 23 14:02:16 2026
type=AVC msg=audit(1795442536.001:814): avc:  denied  { name_connect } for  pid=4711 comm="vmfence" dest=1229 \
scontext=system_u:system_r:fenced_t:s0 tcontext=system_u:object_r:zented_port_t:s0 tclass=tcp_socket permissive=0
----
time->Mon Nov 23 14:02:17 2026
type=AVC msg=audit(1795442537.700:815): avc:  denied  { getattr } for  pid=99 comm="httpd" path="/x" dev="dm-0" ino=1 \
scontext=system_u:system_r:httpd_t:s0 tcontext=unconfined_u:object_r:user_home_t:s0 tclass=file permissive=0
type=AVC msg=audit(1795442537.800:816): avc:  granted  { setenforce } for  pid=99 comm="vmfence" \
scontext=unconfined_u:unconfined_r:unconfined_t:s0 tcontext=system_u:object_r:security_t:s0 tclass=security
type=AVC msg=audit(1795442537.900:817): avc:  denied  { read } for  pid=98 comm=766D2066656E6365 name="x" dev="dm-0"
"""
DENIALS = (
    "vmfence: name_connect system_u:object_r:zented_port_t:s0",
    "fence_virtd: read open unconfined_u:object_r:user_home_t:s0",
)
LABELS = "has context unconfined_u:object_r:user_home_t:s0, should be system_u:object_r:cluster_conf_t:s0"
NOTHING = {
    "ausearch": ("", "<no matches>", 1),
    "getsebool": ("fenced_can_network_connect --> on", "", 0),
    "matchpathcon": ("$2 verified.", "", 0),
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the tools, the only ones there are; SELinux is enforced."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setattr(proc, "system_path", lambda: str(folder))
    enforce(tmp_path, monkeypatch, "1")
    for name in (KEY, CONFIG):
        (tmp_path / name).touch()
    return folder


def enforce(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "enforce").write_text(text)
    monkeypatch.setattr(selinux, "_ENFORCE", str(folder / "enforce"))


def install(tools: Path, **says: tuple[str, str, int]) -> None:
    """Install all tools: those in *says* write this to stdout and stderr and exit so, the others find nothing."""
    for name, (out, err, status) in {**NOTHING, **says}.items():
        script = f"cat <<EOT\n{out}\nEOT\ncat >&2 <<EOT\n{err}\nEOT\nexit {status}\n"
        (tools / name).write_text(f"#!/bin/sh\n{script}")
        (tools / name).chmod(0o755)


def seen(tools: Path) -> SELinux:
    return selinux.look([str(tools.parent / name) for name in (KEY, CONFIG, "none")])


def test_nothing_is_wrong(tools: Path) -> None:
    install(tools)
    assert seen(tools) == SELinux(is_enforced=True, is_enabled=True)


def test_all_is_wrong(tools: Path) -> None:
    install(
        tools,
        ausearch=(DENIED, "", 0),
        getsebool=("fenced_can_network_connect --> off", "", 0),
        matchpathcon=(f"$2 {LABELS}", "", 1),
    )
    found = seen(tools)
    assert found.denials == DENIALS and found.boolean_off and found.unseen == ()
    assert found.mislabelled == (str(tools.parent / KEY), str(tools.parent / CONFIG))


def test_permissive_and_without_selinux(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tools, ausearch=(DENIED, "", 0))
    enforce(tmp_path, monkeypatch, "0")
    found = seen(tools)
    assert (found.is_enabled, found.is_enforced, found.denials) == (True, False, DENIALS)
    (tmp_path / "enforce").unlink()
    assert seen(tools) == SELinux()


def test_tools_that_are_not_installed(tools: Path) -> None:
    found = seen(tools)
    assert found.unseen == tuple(f"{name} is not installed" for name in NOTHING)
    assert found == SELinux(is_enforced=True, unseen=found.unseen, is_enabled=True)


@pytest.mark.parametrize(
    ("tool", "says", "why"),
    [
        ("ausearch", "Error opening config file (Permission denied)", ""),
        ("getsebool", "getsebool:  SELinux is disabled", ""),
        ("matchpathcon", "matchpathcon: cannot open the policy", ""),
        ("ausearch", "", "exit code 1"),
    ],
)
def test_a_tool_that_fails_has_told_nothing(tools: Path, tool: str, says: str, why: str) -> None:
    install(tools, **{tool: ("", says, 1)})
    assert seen(tools).unseen == (f"{tool} failed: {says or why}",)


def test_a_policy_that_does_not_have_the_boolean(tools: Path) -> None:
    install(tools, getsebool=("", "Error getting active value for fenced_can_network_connect", 1))
    assert seen(tools) == SELinux(is_enforced=True, is_enabled=True)


@pytest.mark.parametrize("tool", NOTHING)
def test_a_tool_that_hangs_or_cannot_be_run(tools: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    install(tools)
    monkeypatch.setattr(selinux, "_ASK_S", 0.2)
    (tools / tool).write_text("#!/bin/sh\nexec sleep 60\n")
    assert "did not end within" in seen(tools).unseen[0]
    (tools / tool).write_text("#!/no/such/shell\n")
    assert "cannot run" in seen(tools).unseen[0]


@pytest.mark.parametrize("cut", range(0, len(DENIED), 97))
def test_a_listing_that_is_cut_off(cut: int) -> None:
    assert len(selinux.denials(DENIED[:cut])) <= len(DENIALS) + 1  # the last one may be told without its target
    assert selinux.denials("\ufffd" * cut + 'denied { comm="vmfence"') in ((), ("vmfence: ?",))
