"""Our own programs as processes: the command line, the agent and the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.net import Namespace
from lab.process import Daemon, Result, run_client

READY = r" ready: "
_GUEST_XML = """<domain type="test"><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory>
<os><type>hvm</type></os></domain>"""


class CommandLine:
    """The programs in *folder*, where pip has put them."""

    def __init__(self, folder: Path) -> None:
        self.vmfence = str(folder / "vmfence")
        self.agent = str(folder / "fence_vmfence")

    def run(self, *arguments: str, netns: Namespace | None = None, stdin: str | None = None) -> Result:
        """Run ``vmfence`` to its end."""
        return run_client(self.vmfence, arguments, stdin=stdin, netns=netns)

    def fence(self, *arguments: str, netns: Namespace | None = None, stdin: str | None = None) -> Result:
        """Run the fence agent to its end."""
        return run_client(self.agent, arguments, stdin=stdin, netns=netns)

    @contextmanager
    def daemon(
        self, config: Path, netns: Namespace | None = None, options: tuple[str, ...] = (), ready: str = READY
    ) -> Iterator[Daemon]:
        """Run the daemon until the end of the block, ready when it begins; its log stands beside *config*."""
        argv = [self.vmfence, "host", "daemon", "-f", str(config), *options]
        with Daemon(argv, config.with_suffix(".log"), netns) as daemon:
            daemon.wait_for_line(ready)
            yield daemon


def our_config(
    folder: Path,
    uri: str,
    key_file: Path,
    *,
    daemon: str = "",
    groups: str = "",
    listeners: dict[str, dict[str, object]],
) -> Path:
    """Write a configuration with *listeners* (name -> keys) into *folder* and return its path.

    *daemon* is more text for the fence_virtd section, *groups* the inside of the groups section; state is kept below
    *folder*.
    """
    blocks = ""
    for name, settings in listeners.items():
        key = {} if name == "serial" else {"key_file": key_file}
        lines = "".join(f'{word} = "{value}"; ' for word, value in {**key, **settings}.items())
        blocks += f"    {name} {{ {lines}}}\n"
    path = folder / "vmfence.conf"
    path.write_text(
        f'fence_virtd {{ listener = "{" ".join(listeners)}"; backend = "libvirt"; '
        f'state_dir = "{folder}/state"; control_socket = "{folder}/control"; {daemon} }}\n'
        f"listeners {{\n{blocks}}}\n"
        f'backends {{ libvirt {{ uri = "{uri}"; }} }}\n' + (f"groups {{ {groups} }}\n" if groups else "")
    )
    return path


def driver_uri(folder: Path, guests: dict[str, str]) -> str:
    """Write a world of running guests (name -> UUID) for libvirt's test driver; return its URI."""
    path = folder / "guests.xml"
    world = "".join(_GUEST_XML.format(name=name, uuid=uuid) for name, uuid in guests.items())
    path.write_text(f"<node>{world}</node>")
    return f"test://{path}"
