"""The check at the end of setup, against a real daemon on tcp: was it ours that answered, and by our access rules?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.ours import CommandLine, driver_uri, our_config
from lab.reference import write_key
from lab.rig import free_port
from vmfence.errors import VmfenceError
from vmfence.host import selfcheck

GUESTS = {"alpha": "11111111-2222-3333-4444-555555555501", "beta": "11111111-2222-3333-4444-555555555502"}
ALPHA_TO_US = 'group { name = "us"; ip = "127.0.0.1"; uuid = "alpha"; }'
BETA_TO_OTHERS = 'group { name = "others"; ip = "10.0.0.7"; uuid = "beta"; }'


class Place(NamedTuple):
    """A folder for a configuration, with its port and key."""

    folder: Path
    key: Path
    port: int

    def configure(self, groups: str = "", daemon: str = "", guests: dict[str, str] | None = None) -> Path:
        """Write the configuration, in place of the one before."""
        listeners: dict[str, dict[str, object]] = {"tcp": {"port": self.port}}
        uri = driver_uri(self.folder, GUESTS if guests is None else guests)
        return our_config(self.folder, uri, self.key, groups=groups, daemon=daemon, listeners=listeners)

    def check(self, config: Path) -> str:
        """Check, and return the last line; the listener must serve."""
        return list(selfcheck.check(str(config), True, "", pytest.fail))[-1]

    def trouble(self, config: Path) -> str:
        """Check, and return why it fails."""
        with pytest.raises(VmfenceError) as caught:
            self.check(config)
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, write_key(tmp_path / "key"), free_port())


def test_a_daemon_that_answers_with_all_guests(place: Place, vmfence: CommandLine) -> None:
    config = place.configure()
    with vmfence.daemon(config):
        assert place.check(config) == f"tcp 127.0.0.1 port {place.port} answers with 2 guests"


def test_nobody_there(place: Place) -> None:
    config = place.configure()
    assert "nobody listens at tcp 127.0.0.1" in place.trouble(config)
    free = list(selfcheck.check(str(config), False, "", pytest.fail))[-1]
    assert free == f"tcp 127.0.0.1 port {place.port} is free for the daemon"


@pytest.mark.parametrize(("groups", "shown"), [(ALPHA_TO_US, "1 guest"), (BETA_TO_OTHERS, "0 guests")])
def test_the_answer_is_what_the_access_rules_allow(place: Place, vmfence: CommandLine, groups: str, shown: str) -> None:
    config = place.configure(groups)
    with vmfence.daemon(config):
        notes: list[str] = []
        line = list(selfcheck.check(str(config), True, "", notes.append))[-1]
        assert line.endswith(f" answers by {place.key} with {shown}")
        assert [note for note in notes if "nothing is proved for guests" in note] == notes
        assert bool(notes) == (shown == "0 guests")


@pytest.mark.parametrize(
    ("running", "written", "why"),
    [
        ("", BETA_TO_OTHERS, "shown though no access rule allows it: alpha, beta"),
        (BETA_TO_OTHERS, ALPHA_TO_US, "missing: alpha"),
        (BETA_TO_OTHERS, "", "missing: alpha, beta"),
    ],
)
def test_a_daemon_with_other_access_rules(
    place: Place, vmfence: CommandLine, running: str, written: str, why: str
) -> None:
    with vmfence.daemon(place.configure(running)):
        found = place.trouble(place.configure(written))
        assert why in found and "systemctl restart vmfence" in found


def test_the_key_of_every_group_is_tried(place: Place, vmfence: CommandLine) -> None:
    own = write_key(place.folder / "own key", os.urandom(64))
    group = f'group {{ name = "own"; key_file = "{own}"; uuid = "beta"; }}'
    config = place.configure(group)
    with vmfence.daemon(config):
        lines = list(selfcheck.check(str(config), True, "", pytest.fail))
        assert [line.partition(" answers ")[2] for line in lines[-2:]] == [
            f"by {place.key} with 0 guests",
            f"by {own} with 1 guest",
        ]
        write_key(own, os.urandom(64))  # which the daemon has not read
        assert "gave no answer" in place.trouble(config)


def test_a_daemon_that_is_not_the_one_of_the_configuration(place: Place, vmfence: CommandLine) -> None:
    """It has the port, the key and the guests; at our control socket there is another, which counts nothing."""
    other = Place(place.folder / "other", place.key, place.port)
    other.folder.mkdir()
    idle = Place(place.folder, place.key, free_port())
    with vmfence.daemon(other.configure()), vmfence.daemon(idle.configure()):
        assert "another host answered at tcp" in place.trouble(place.configure())


@pytest.mark.parametrize("must_serve", [True, False])
def test_a_daemon_that_runs_with_another_configuration(place: Place, vmfence: CommandLine, must_serve: bool) -> None:
    """The same in all that a request could tell."""
    config = place.configure()
    copy = config.with_name("copy.conf")
    copy.write_bytes(config.read_bytes())
    with vmfence.daemon(copy), pytest.raises(VmfenceError) as caught:
        list(selfcheck.check(str(config), must_serve, "", pytest.fail))
    assert f"the daemon runs with {copy}, not with {config}" in str(caught.value)


def test_a_daemon_for_another_libvirt(place: Place, vmfence: CommandLine) -> None:
    elsewhere = {"gamma": "11111111-2222-3333-4444-555555555503"}
    folder = place.folder / "other"
    folder.mkdir()
    config = place.configure()
    config.write_bytes(Place(folder, place.key, place.port).configure(guests=elsewhere).read_bytes())
    with vmfence.daemon(config):
        config = place.configure()
        config.write_text(config.read_text().replace(f"{place.folder}/control", f"{folder}/control"))
        assert "another host answered at tcp" in place.trouble(config)
