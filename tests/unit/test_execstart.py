"""What the service starts, as its unit and drop-ins say, and which configuration is meant therefore."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmfence.config import settings
from vmfence.errors import ConfigError, VmfenceError
from vmfence.host import config_search, control, execstart, unit
from vmfence.host.execstart import Start, config_of

NAME = execstart.NAME


class Root:
    """A root folder with the files of systemd."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, path: str, command: str | None, lines: str = "") -> str:
        """Write a unit or drop-in that starts *command*, and nothing else for None; return its path."""
        file = Path(f"{self._folder}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("[Service]\n" + lines + ("" if command is None else f"ExecStart={command}\n"))
        return str(file)

    def read(self) -> Start:
        return execstart.read(str(self._folder))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


OURS = f"/etc/systemd/system/{NAME}"


@pytest.mark.parametrize("config", ["/srv/mine.conf", "/srv/my own 100%.conf", '/srv/a"b\\c$d.conf'])
def test_the_configuration_that_a_unit_names_is_read_back(config: str, root: Root, tmp_path: Path) -> None:
    file = Path(root.put(OURS, None))
    file.write_text(unit.render(unit.shipped_text(), ["/opt/bin/vmfence"], config))
    assert root.read() == Start(str(file), config)
    file.write_text(unit.render(unit.shipped_text(), ["/opt/bin/vmfence"], None))
    assert root.read() == Start(str(file))


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ("-f /a", "/a"),
        ("-f/a", "/a"),
        ("--config=/a -d 1", "/a"),
        ("--config a", "/a"),
        ('-f "/my own"', "/my own"),
        ("-f /x//a/../b", "/x/b"),
        ("-F", None),
        ("", None),
    ],
)
def test_the_configuration_of_a_unit_that_somebody_wrote(words: str, config: str | None) -> None:
    assert config_of(f"/bin/vmfence host daemon {words}") == config


def test_without_a_unit_nothing_is_started(root: Root) -> None:
    assert root.read() == Start()


def test_the_last_of_several_commands_counts(root: Root) -> None:
    root.put(OURS, "/bin/vmfence host daemon \\\n  --config /a", "ExecStart=/bin/old -f /old\n")
    assert root.read().config == "/a"


def test_a_drop_in_overrules_the_unit(root: Root) -> None:
    root.put(OURS, "/bin/vmfence host daemon -f /a")
    drop_in = root.put(f"{OURS}.d/o.conf", "/bin/vmfence host daemon -f /b", "ExecStart=\n")
    root.put(f"{OURS}.d/z.conf", None, "Nice=1\n")
    root.put(f"{OURS}.d/zz.conf~", "/bin/vmfence host daemon -f /c")
    assert (root.read().config, root.read().drop_in) == ("/b", drop_in)


def test_drop_ins_count_by_name_and_the_first_folder_hides_the_others(root: Root) -> None:
    root.put(f"/usr/lib/systemd/system/{NAME}", "/bin/vmfence host daemon")
    root.put(f"/etc/systemd/system/{NAME}.d/10.conf", "/bin/vmfence -f /ten")
    root.put(f"/usr/lib/systemd/system/{NAME}.d/20.conf", "/bin/vmfence -f /hidden")
    twenty = root.put(f"/run/systemd/system/{NAME}.d/20.conf", "/bin/vmfence -f /twenty")
    assert (root.read().config, root.read().drop_in) == ("/twenty", twenty)
    Path(twenty).unlink()
    Path(twenty).symlink_to("/dev/null")
    assert root.read().config == "/ten"


def test_a_masked_unit_names_nothing(root: Root) -> None:
    file = Path(root.put(OURS, None))
    root.put(f"{OURS}.d/o.conf", "/bin/vmfence -f /a")
    file.unlink()
    file.symlink_to("/dev/null")
    assert root.read() == Start(str(file))


@pytest.mark.parametrize("words", ['-f "/a', "--config=${C}", "$OPTIONS", "-f %E/a"])
def test_what_only_systemd_knows_is_not_guessed(words: str, root: Root) -> None:
    file = root.put(OURS, f"/bin/vmfence host daemon {words}")
    fault = root.read().fault
    assert fault is not None and f"it is not clear what {file} runs" in str(fault) and "--config" in str(fault)


# Which configuration is meant.


class Service:
    """What unit, daemon and the usual places have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.unit = Start()
        self.daemon: str | None = None
        self.first, self.second = str(folder / "vmfence.conf"), str(folder / "fence_virt.conf")
        monkeypatch.setattr(config_search, "SEARCH_PATHS", (self.first, self.second))
        monkeypatch.setattr(settings.find, "__defaults__", ((self.first, self.second),))
        monkeypatch.setattr(execstart, "read", lambda: self.unit)
        monkeypatch.setattr(execstart, "find_unit", lambda: self.unit.unit)
        monkeypatch.setattr(control, "ask", self._ask)

    def _ask(self, path: str, timeout_s: float) -> dict[str, str]:
        if self.daemon is None:
            raise VmfenceError("no daemon answers")
        return {"config": self.daemon}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Service:
    return Service(monkeypatch, tmp_path)


def test_what_is_named_comes_first(service: Service) -> None:
    service.unit, service.daemon = Start("/u", "/srv/a"), "/srv/b"
    assert config_search.find("/x") == config_search.Place("/x")


def test_without_a_service_the_usual_place_counts(service: Service) -> None:
    assert config_search.in_service() is None
    with pytest.raises(ConfigError):
        config_search.find(None)
    Path(service.second).touch()
    assert config_search.find(None) == config_search.Place(service.second)


def test_what_the_unit_names_counts_though_a_usual_one_is_there(service: Service) -> None:
    Path(service.first).touch()
    Path(service.second).touch()
    service.unit = Start("/u", service.second)
    assert config_search.in_service() == service.second
    found = config_search.find(None)
    assert found.path == service.second and found.note.endswith("the service's unit names it")
    service.daemon = service.second
    assert config_search.in_service() == service.second


@pytest.mark.parametrize("named", ["/srv/other", None])
def test_unit_and_daemon_that_disagree(named: str | None, service: Service) -> None:
    """Who looks is shown what serves; who is to change something has to say which."""
    Path(service.first).touch()
    service.unit, service.daemon = Start("/u", named), "/srv/running"
    with pytest.raises(VmfenceError, match=r"the daemon that runs has /srv/running, the next start .*--config"):
        config_search.in_service()
    found = config_search.find(None)
    assert found.path == "/srv/running" and f"the next start takes {named or service.first}" in found.note


def test_a_unit_that_cannot_be_understood(service: Service) -> None:
    service.unit = Start("/u", fault=VmfenceError("it is not clear"))
    for find in (config_search.in_service, lambda: config_search.find(None)):
        with pytest.raises(VmfenceError, match="it is not clear"):
            find()
    service.daemon = "/srv/running"
    assert config_search.in_service() == config_search.find(None).path == "/srv/running"


def test_a_usual_place_is_found_unless_one_before_it_is_there(service: Service) -> None:
    assert config_search.is_found_unnamed(service.first) and config_search.is_found_unnamed(service.second)
    Path(service.first).touch()
    assert config_search.is_found_unnamed(service.first) and not config_search.is_found_unnamed(service.second)
    assert not config_search.is_found_unnamed("/srv/a")
