"""The systemd unit: what systemd itself thinks of it, and how it is fitted to an installation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vmfence.config import settings as configuration
from vmfence.config.settings import Settings
from vmfence.errors import VmfenceError
from vmfence.host import daemon, unit

ROOT = Path(__file__).parent.parent.parent
EXPOSURE_MAX = 3.0
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


def fitted(folder: Path, text: str) -> Path:
    """Write the unit with programs that exist everywhere."""
    path = folder / "vmfence.service"
    path.write_text(text.replace("/usr/bin/vmfence", "/bin/true").replace("Documentation=", "# "))
    return path


@needs_systemd
def test_exposure_is_low() -> None:
    done = analyze("security", "--offline=true", "--no-pager", unit.SHIPPED)
    found = re.search(r"Overall exposure level for .*: ([0-9.]+) ", done.stdout)
    assert found and float(found[1]) <= EXPOSURE_MAX, done.stdout + done.stderr


@needs_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", str(fitted(tmp_path, unit.shipped_text())))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_systemd_understands_what_is_added(tmp_path: Path) -> None:
    text = unit.render(unit.shipped_text(), ["/bin/true", 'a "b" $c %d\\'], "/srv/odd 1%.conf", unit.extras(unusual()))
    done = analyze("verify", "--man=no", str(fitted(tmp_path, text)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_contrib_is_the_file_that_is_shipped() -> None:
    for link, file in (("systemd/vmfence.service", "vmfence.service"), ("firewalld/vmfence.xml", "vmfence.xml")):
        path = ROOT / "contrib" / link
        assert path.is_symlink() and not path.readlink().is_absolute()
        assert path.resolve() == ROOT / "vmfence" / "host" / "data" / file


def test_it_waits_longer_than_the_daemon_finishes() -> None:
    stop_s = re.search(r"^TimeoutStopSec=(\d+)$", unit.shipped_text(), re.MULTILINE)
    assert stop_s and float(stop_s[1]) > daemon.FINISH_S


def test_setup_waits_until_the_old_daemon_has_finished() -> None:
    stop_s = re.search(r"^TimeoutStopSec=(\d+)$", unit.shipped_text(), re.MULTILINE)
    assert stop_s and float(stop_s[1]) <= unit.STOP_S < unit.RESTART_S


def test_nothing_of_libvirt_is_required() -> None:
    text = unit.shipped_text()
    after = " ".join(re.findall("^After=(.*)$", text, re.MULTILINE)).split()
    assert {"libvirtd.service", "virtqemud.service", "virtqemud.socket", "virtnetworkd.service"} <= set(after)
    assert not re.search("^(Requires|BindsTo|Requisite|PartOf)=", text, re.MULTILINE)


def settings(daemon_text: str = "", uri: str = "qemu:///system", port: int = 1229) -> Settings:
    text = f"""fence_virtd {{ listener = "multicast"; backend = "libvirt"; {daemon_text} }}
    listeners {{ multicast {{ port = "{port}"; }} tcp {{ port = "80"; }} }}
    backends {{ libvirt {{ uri = "{uri}"; }} }}"""
    return configuration.read(text.encode(), "/etc/vmfence.conf")


def unusual() -> Settings:
    folders = 'state_dir = "/srv/odd 1%/state"; control_socket = "/srv/odd 1%/run/control";'
    return settings(folders, "qemu+unix:///session?socket=/run/user/1000/libvirt/libvirt-sock", 500)


def test_a_usual_configuration_needs_nothing_more() -> None:
    assert unit.extras(settings()) == ()
    assert unit.extras(settings('state_dir = "/var/lib/vmfence/a"; control_socket = "/run/vmfence/b";')) == ()


def test_an_unusual_configuration_gets_what_it_needs() -> None:
    assert unit.extras(unusual()) == (
        'ReadWritePaths="/srv/odd 1%%/state"',
        'ReadWritePaths=-"/srv/odd 1%%/run"',
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_DAC_OVERRIDE",
    )


def test_sockets_of_guests_need_a_right() -> None:
    text = b"""fence_virtd { listener = "serial"; backend = "libvirt"; }
    backends { libvirt { uri = "qemu:///system"; } }"""
    found = unit.extras(configuration.read(text, "/etc/vmfence.conf"))
    assert found == ("CapabilityBoundingSet=CAP_DAC_OVERRIDE",)


def test_a_key_of_another_user_needs_a_right() -> None:
    assert unit.extras(settings(), [0, 65534]) == ("CapabilityBoundingSet=CAP_DAC_OVERRIDE",)


@pytest.mark.parametrize(
    ("argv", "config", "program", "more"),
    [
        (["/opt/v/bin/vmfence"], "/etc/a.conf", "/opt/v/bin/vmfence", " --config /etc/a.conf"),
        (["/usr/bin/python3", "-m", "vmfence"], None, "/usr/bin/python3 -m vmfence", ""),
        (["/a b/$v"], "/x%.conf", '"/a b/$$v"', " --config /x%%.conf"),
    ],
)
def test_rendering(argv: list[str], config: str | None, program: str, more: str) -> None:
    shipped = unit.shipped_text()
    rendered = unit.render(shipped, argv, config)
    differing = [new for old, new in zip(shipped.splitlines(), rendered.splitlines()) if old != new]
    assert differing == [f"ExecStart={program} host daemon --wait-for-init{more}"]


def test_an_installation_that_the_service_cannot_see_is_refused() -> None:
    with pytest.raises(VmfenceError, match="the service cannot run /tmp/venv/bin/vmfence"):
        unit.render(unit.shipped_text(), ["/tmp/venv/bin/vmfence"], None)


def test_what_is_added_stands_below_the_command() -> None:
    lines = unit.render(unit.shipped_text(), ["/bin/true"], None, ["UMask=0"]).splitlines()
    assert lines[lines.index("UMask=0") - 1].startswith("ExecStart=")


def test_the_shipped_unit_is_what_is_rendered_for_usr_bin() -> None:
    shipped = unit.shipped_text()
    assert unit.render(shipped, ["/usr/bin/vmfence"], None) == shipped


def test_this_installation_is_found() -> None:
    assert Path(unit.program()[0]).exists()


@pytest.mark.parametrize("config", ["/tmp/x.conf", "/var/tmp/a/x.conf", "/srv/../tmp/x.conf"])
def test_a_configuration_that_the_service_cannot_see_is_refused(config: str) -> None:
    with pytest.raises(VmfenceError, match=r"the service cannot read .*tmp of their own"):
        unit.check_visible(config)
    unit.check_visible("/etc/vmfence.conf")


def test_a_link_to_what_the_service_cannot_see_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.conf").symlink_to("/tmp/x.conf")
    with pytest.raises(VmfenceError, match="the service cannot read"):
        unit.check_visible(str(tmp_path / "link.conf"))


def test_the_unit_can_be_read_by_everybody_whatever_the_umask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Systemd complains about one that only root may read."""
    path = tmp_path / "vmfence.service"
    monkeypatch.setattr(unit, "INSTALL_PATH", str(path))
    unit.install("[Service]\n")
    assert path.stat().st_mode & 0o777 == 0o644


def test_without_systemd_there_is_no_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unit, "_RUNNING_SYSTEMD", str(tmp_path / "none"))
    assert not unit.look().is_manager
