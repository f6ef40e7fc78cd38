"""A Linux that fits into memory: Debian's kernel, this Python, our programs and what they load; no disk, no other program.

The kernel comes from a package that `make test` has put into the cache (contrib/fetch-guest-kernel); nothing is
installed.  The rest is copied from this machine: making it takes two seconds, so it is always made of what is there now.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .cpio import Archive
from .process import clean_environment
from .waiting import LabError

PROJECT = Path(__file__).parents[2]
CACHE = PROJECT / ".cache" / "guest"
INIT = Path(__file__).with_name("guest_init.py")
PYTHON = "/usr/bin/python3"
PACKAGES = "/usr/lib/vmfence"
MODULES = "/lib/modules"
# In the guest's own words of its command lines.
AGENT, VMFENCE, FENCE_VIRT = "/usr/sbin/fence_vmfence", "/usr/bin/vmfence", "/usr/sbin/fence_virt"
DRIVERS = (
    "virtio_pci", "virtio_console", "virtio_net",
    "vsock_loopback",
)  # fmt: skip
_HEAVY = ("site-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo", "tkinter", "pydoc_data")
_UNUSED = ("_tkinter", "_test", "_sqlite3", "_xxtest")
_PROGRAM = """#!{python}
import sys

from {module} import main

sys.exit(main({arguments}))
"""


class Image(NamedTuple):
    """What QEMU starts: paths of files."""

    kernel: Path
    initrd: Path


def missing() -> list[str]:
    """Return what is missing for an image."""
    return [] if kernel_package() else ["a guest kernel (contrib/fetch-guest-kernel)"]


def kernel_package() -> Path | None:
    """Return the newest package of a kernel in the cache, or None."""
    found = sorted(CACHE.glob("linux-image-*-cloud-amd64_*.deb"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def make_image(folder: Path) -> Image:
    """Make an image in *folder*.  Raises LabError without the package of a kernel."""
    package = kernel_package()
    if package is None:
        raise LabError(f"no kernel in {CACHE}: run contrib/fetch-guest-kernel {CACHE}")
    folder.mkdir(parents=True, exist_ok=True)
    image = Image(folder / "vmlinuz", folder / "initrd")
    kernel, modules = _unpack(package)
    image.kernel.write_bytes(kernel)
    with image.initrd.open("wb") as output, Archive(output) as archive:
        _add_modules(archive, modules)
        _add_python(archive)
        _add_programs(archive)
    return image


def _unpack(package: Path) -> tuple[bytes, dict[str, bytes]]:
    """Return the kernel, and its modules by their names."""
    kernel, modules = b"", {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacking:
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as members:
            for member in members:
                path = Path(member.name)
                is_kernel = path.name.startswith("vmlinuz-")
                if is_kernel or ".ko" in path.suffixes:
                    content = members.extractfile(member)
                    assert content is not None
                    if is_kernel:
                        kernel = content.read()
                    else:
                        modules[path.name.split(".")[0].replace("-", "_")] = content.read()
    if not kernel:
        raise LabError(f"no kernel in {package}")
    return kernel, modules


def _add_modules(archive: Archive, modules: dict[str, bytes]) -> None:
    """Add the drivers and what they need; for each a list says in which order they are loaded."""
    for driver in DRIVERS:
        needed = _load_order(driver, modules)
        archive.write(f"{MODULES}/{driver}.order", "\n".join(needed).encode())
        for name in needed:
            archive.write(f"{MODULES}/{name}.ko", modules[name])


def _load_order(name: str, modules: dict[str, bytes]) -> list[str]:
    """Return the module and all that it needs, those first that others need."""
    if name not in modules:
        raise LabError(f"the kernel has no module {name}")
    match = re.search(rb"\0depends=([^\0]*)\0", modules[name])
    needs = match[1].decode().replace("-", "_").split(",") if match and match[1] else []
    order = [each for need in needs for each in _load_order(need, modules)]
    return list(dict.fromkeys([*order, name]))


def _add_python(archive: Archive) -> None:
    """Add this interpreter and its standard library, at the paths that are built into it."""
    program = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    archive.add(program)
    archive.link(PYTHON, str(program))
    settings = tuple(path.name for path in library.glob("config-*"))
    archive.add_tree(library, without=(*_HEAVY, *settings, "lib-dynload"))
    extensions = [path for path in library.glob("lib-dynload/*.so") if not path.name.startswith(_UNUSED)]
    for path in extensions:
        archive.add(path)
    _add_libraries(archive, [program, *extensions])


def _add_programs(archive: Archive) -> None:
    site = Path(sysconfig.get_path("platlib"))
    archive.write("/init", INIT.read_bytes(), 0o755)
    archive.add_tree(PROJECT / "vmfence", f"{PACKAGES}/vmfence", without=("__pycache__",))
    for name in ("click", "lxml"):
        archive.add_tree(site / name, f"{PACKAGES}/{name}")
    bindings = sorted(site.glob("libvirt*.py")) + sorted(site.glob("libvirtmod*.so"))
    for path in bindings:
        archive.add(path, f"{PACKAGES}/{path.name}")
    _add_libraries(archive, [*site.glob("libvirtmod*.so"), *site.glob("lxml/*.so"), Path(FENCE_VIRT)])
    archive.add(Path(FENCE_VIRT))
    for path, module, arguments in (
        (AGENT, "vmfence.agent.main", "sys.argv"),
        (VMFENCE, "vmfence.cli.entry", ""),
    ):
        text = _PROGRAM.format(python=PYTHON, module=module, arguments=arguments)
        archive.write(path, text.encode(), 0o755)


def _add_libraries(archive: Archive, programs: Sequence[Path]) -> None:
    for path in _libraries(programs):
        archive.add(Path(path))


def _libraries(programs: Iterable[Path]) -> list[str]:
    """Return the shared libraries that *programs* load, where they look for them."""
    done = subprocess.run(
        ["ldd", *map(str, programs)], stdout=subprocess.PIPE, check=True, encoding="utf-8", env=clean_environment()
    )
    return sorted(set(re.findall(r"(?:=> |^\s)(/\S+) \(0x", done.stdout, re.MULTILINE)))
