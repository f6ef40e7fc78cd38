"""Whole machines to install on: this machine's programs, none of its state, and nothing left at the end.

The root is an overlay over ours, the network is a namespace of the test, and libvirt is the test's private one, under
the path that every program expects.  Machine has a real systemd, booted by systemd-nspawn; Bare has no service manager.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from .cgroup import ControlGroup
from .libvirtd import Libvirtd
from .net import Namespace
from .process import Result, clean_environment, run_client
from .requirements import SYSTEM_PATH
from .waiting import LabError, wait_until

BOOTED_WITHIN = 60.0  # seconds
PROGRAMS = ("systemd-nspawn", "nsenter", "chroot")
PROJECT = Path(__file__).parents[2]
# Where the machine has our programs: services have a /tmp of their own, and the checkout may be anywhere.
PROGRAM = "/opt/vmfence/bin/vmfence"
SOURCE, PACKAGES = "/opt/vmfence/source", "/opt/vmfence/packages"
LAUNCHER = f"""#!{Path(sys.executable).resolve()}
import sys

sys.path[:0] = [{SOURCE!r}, {PACKAGES!r}]
from vmfence.cli.entry import main

sys.exit(main())
"""
# What would find or make guests of its own.
MASKED = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service")
# The machine's own settings must not decide what a test sees.
FORGOTTEN = (
    "etc/cluster etc/vmfence.conf etc/fence_virt.conf etc/firewalld etc/systemd/system/firewalld.service "
    "var/lib/vmfence etc/machine-id"
)
ROOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs {folder}
mkdir {folder}/upper {folder}/work {folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/root
cd {folder}/root
rm -rf {forgotten}
touch etc/machine-id
"""
CHROOT = """
mount -t sysfs sysfs sys  # of this network
for each in proc dev; do mount --rbind /$each $each; done
for each in "$@"; do mkdir -p ".${{each#*=}}"; mount --bind "${{each%=*}}" ".${{each#*=}}"; done
exec chroot . cat
"""


def missing() -> list[str]:
    """Return the programs that are missing for a machine."""
    return [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]


class Bare:
    """A machine in *netns* without a service manager, whose qemu:///system is *libvirtd*; a context manager.

    It shares the process table with this machine.
    """

    _namespaces = ("--mount", "--root", "--wd")

    def __init__(self, folder: Path, netns: Namespace, libvirtd: Libvirtd) -> None:
        self.folder, self._netns, self._libvirtd = folder, netns, libvirtd
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Bare:
        try:
            self._start()
            self.write(PROGRAM, LAUNCHER, 0o755)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.send_signal(signal.SIGTERM)
            with self._keeper:  # closes its stdin and waits
                pass

    @property
    def prefix(self) -> list[str]:
        """The words that begin the command line of a program which is to run there."""
        return ["nsenter", f"--target={self._pid}", f"--net=/run/netns/{self._netns.name}", *self._namespaces]

    def run(self, *argv: str, timeout: float = 60) -> Result:
        """Run a program there to its end."""
        return run_client(self.prefix, argv, timeout=timeout)

    def ok(self, *argv: str) -> str:
        """Run a program that must end with 0; return its output."""
        done = self.run(*argv)
        if done.exit:
            raise LabError(f"{shlex.join(argv)}: exit {done.exit}\n{done.stdout}{done.stderr}")
        return done.stdout

    def path(self, inside: str) -> Path:
        """Return where a file of the machine is found from outside."""
        return Path(f"/proc/{self._pid}/root{inside}")

    def write(self, inside: str, text: str | bytes, mode: int = 0o600) -> None:
        """Write a file of the machine."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)

    def tree(self, *folders: str) -> str:
        """Return everything below *folders* with mode, owner, size and time, to see whether anything changed."""
        return self.run("find", *folders, "-printf", "%p %y %m %u %s %T@ %l\n").stdout

    def _start(self) -> None:
        self._keeper = self._launch(CHROOT, [f"{source}={target}" for source, target in self._binds().items()])
        self._pid = self._keeper.pid
        wait_until(lambda: Path(f"/proc/{self._pid}/comm").read_text() == "cat\n", what="a root of its own")

    def _binds(self) -> dict[str, str]:
        """Return what the overlay does not show where it lies on another disk, and libvirt's sockets."""
        ours = {str(PROJECT): SOURCE, sysconfig.get_path("platlib"): PACKAGES, sys.base_prefix: sys.base_prefix}
        ours.pop("/usr", None)
        return {**ours, str(self._libvirtd.run_folder): "/run/libvirt"}

    def _launch(self, script: str, argv: list[str]) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = (ROOT + script).format(folder=shlex.quote(str(self.folder)), forgotten=FORGOTTEN)
        # Not "ip netns exec": its new /sys is without cgroups.
        enter = ["nsenter", f"--net=/run/netns/{self._netns.name}", "unshare", "--mount", "sh", "-c", text, "sh"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*enter, *argv], stdin=subprocess.PIPE, stdout=log, stderr=log, env=clean_environment()
            )

    @property
    def _log(self) -> Path:
        return self.folder.with_suffix(".log")


class Machine(Bare):
    """A machine with systemd, booted to basic.target, and a process table of its own; a context manager."""

    _namespaces = ("--mount", "--uts", "--ipc", "--pid", "--root", "--wd")

    def __init__(self, folder: Path, netns: Namespace, libvirtd: Libvirtd) -> None:
        super().__init__(folder, netns, libvirtd)
        self._group = ControlGroup(netns.name)

    def __enter__(self) -> Machine:
        self._group.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._group.__exit__()

    def ok(self, *argv: str) -> str:
        """Run a program that must end with 0; return its output.  Of a unit that does not start, tell why."""
        try:
            return super().ok(*argv)
        except LabError as error:
            if argv[0] != "systemctl":
                raise
            journal = self.run("journalctl", "--no-pager", "--lines=40", "--unit", argv[-1]).stdout
            raise LabError(f"{error}\n{journal}") from None

    def property(self, name: str, unit: str = "vmfence") -> str:
        """Return one property of a unit."""
        return self.ok("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def _start(self) -> None:
        argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--directory=."]
        argv += ["--console=pipe", "--link-journal=no", "--capability=CAP_NET_ADMIN"]
        argv += ["--resolv-conf=off", "--timezone=off"]
        argv += [f"--bind={source}:{target}" for source, target in self._binds().items()]
        argv += ["--boot", "systemd.unit=basic.target", *(f"systemd.mask={unit}" for unit in MASKED)]
        joining = "".join(f"echo $$ > {shlex.quote(str(door))}\n" for door in self._group.doors)
        self._keeper = self._launch(f'{joining}exec "$@"', argv)
        wait_until(self._is_up, BOOTED_WITHIN, "a booted systemd", interval=0.05)

    def _is_up(self) -> bool:
        assert self._keeper is not None
        if self._keeper.poll() is not None:
            raise LabError(f"systemd-nspawn ended:\n{self._log.read_text(errors='replace')}")
        self._pid = self._pid or _booted(self._keeper.pid)
        return bool(self._pid) and self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")


def _booted(pid: int) -> int:
    """Return the child of *pid* that is the machine's systemd; 0 while there is none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        name = Path(f"/proc/{children[0]}/comm").read_text().strip() if children else ""
    except OSError:
        return 0
    return int(children[0]) if name == "systemd" else 0
