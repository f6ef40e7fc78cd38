"""A Linux that lives in memory: Debian's kernel, this Python, our programs and the reference's, and nothing else.

The kernel is a package that `make test` has put into the cache (contrib/fetch-guest-kernel); it is not installed.  All
else is copied from this machine.  An image is made in two or three seconds, so it is never stale: each user makes one.
"""

from __future__ import annotations

import compileall
import lzma
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from . import reference
from .cpio import Archive
from .process import clean_environment
from .waiting import LabError

PROJECT = Path(__file__).parents[2]
CACHE = PROJECT / ".cache" / "guest"
INIT = Path(__file__).with_name("guest_init.py")
# Where the guest has what is ours.
PYTHON, AGENT, VMFENCE = "/usr/bin/python3", "/usr/sbin/fence_vmfence", "/usr/bin/vmfence"
PACKAGES, DRIVERS = "/usr/lib/vmfence", "/lib/modules"
LOADED_DRIVERS = ("virtio_pci", "virtio_console", "virtio_net", "vsock_loopback")
# Of the standard library, what is large or needs many libraries, and nobody here loads.
LEFT_OUT = (
    "site-packages", "dist-packages", "config-*", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo",
    "tkinter", "pydoc_data", "distutils", "unittest", "*.opt-?.pyc", "_tkinter.*", "_test*",
)  # fmt: skip
# What libnss3 loads by itself, from beside it.
NSS_PARTS = [f"lib{name}.{end}" for name in ("softokn3", "freebl3", "freeblpriv3") for end in ("so", "chk")]
LAUNCHER = """#!{python}
import sys

from {module} import main

sys.exit(main({arguments}))
"""


class Image(NamedTuple):
    """What QEMU starts."""

    kernel: Path
    initrd: Path


def missing() -> list[str]:
    """Return what is missing for an image."""
    return [] if _kernel_package() else ["a guest's kernel: contrib/fetch-guest-kernel"]


@contextmanager
def made_image() -> Iterator[Image]:
    """Lend an image, 150 MB, until the end of the block.  Raises LabError where its parts are missing."""
    package = _kernel_package()
    if package is None:
        raise LabError(f"missing: {', '.join(missing())}")
    with tempfile.TemporaryDirectory(prefix="vmf-image-", dir="/tmp") as folder:
        yield _make(package, Path(folder))


def _make(package: Path, folder: Path) -> Image:
    image = Image(folder / "vmlinuz", folder / "initrd")
    kernel, drivers = _unpack(package)
    image.kernel.write_bytes(kernel)
    with image.initrd.open("wb") as output, Archive(output) as archive:
        archive.write("/init", INIT.read_bytes(), 0o755)
        _add_drivers(archive, drivers)
        _add_python(archive)
        _add_ours(archive, folder)
        _add_reference(archive)
    return image


def _kernel_package() -> Path | None:
    found = sorted(CACHE.glob("linux-image-*-cloud-amd64_*.deb"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _unpack(package: Path) -> tuple[bytes, dict[str, bytes]]:
    """Return the kernel in *package*, and its drivers by name."""
    kernel, drivers = b"", {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacking:
        assert unpacking.stdout is not None
        for name, data in _files(unpacking.stdout):
            if name.startswith("vmlinuz-"):
                kernel = data
            elif name.endswith((".ko", ".ko.xz")):
                driver = name.partition(".")[0].replace("-", "_")
                drivers[driver] = lzma.decompress(data) if name.endswith(".xz") else data
        unpacking.stdout.read()  # what pads the archive: dpkg-deb must be able to write it
    if not kernel or unpacking.returncode:
        raise LabError(f"no kernel in {package}: remove it, and run make test")
    return kernel, drivers


def _files(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in a tar archive."""
    with tarfile.open(fileobj=stream, mode="r|") as members:
        for member in members:
            content = members.extractfile(member) if member.isreg() else None
            if content:
                yield Path(member.name).name, content.read()


def _add_drivers(archive: Archive, drivers: dict[str, bytes]) -> None:
    """Add drivers and what they need; for each a list says in which order they are loaded."""
    for driver in LOADED_DRIVERS:
        order = _load_order(driver, drivers)
        archive.write(f"{DRIVERS}/{driver}.order", "\n".join(order).encode())
        for name in order:
            archive.write(f"{DRIVERS}/{name}.ko", drivers[name])


def _load_order(name: str, drivers: dict[str, bytes]) -> list[str]:
    """Return a driver and all that it needs, in the order in which they can be loaded, less what is built in."""
    if name not in drivers:
        return []
    found = re.search(rb"\0depends=([^\0]*)\0", drivers[name])
    needs = found[1].decode().replace("-", "_").split(",") if found and found[1] else []
    return list(dict.fromkeys([*(each for need in needs for each in _load_order(need, drivers)), name]))


def _add_python(archive: Archive) -> None:
    """Add this interpreter and its standard library, at the paths that are built into it."""
    program, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    archive.add(program)
    archive.link(PYTHON, str(program))
    archive.add_tree(library, without=LEFT_OUT)
    _add_libraries(archive, [program, *(path for path in library.glob("lib-dynload/*.so") if str(path) in archive)])


def _add_ours(archive: Archive, folder: Path) -> None:
    """Add our programs and what they load.  Compiled here: a guest needs many times as long for that."""
    compiled = folder / "vmfence"
    shutil.copytree(PROJECT / "vmfence", compiled, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(compiled, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    archive.add_tree(compiled, f"{PACKAGES}/vmfence")
    for name, module, arguments in ((AGENT, "vmfence.agent.main", "sys.argv"), (VMFENCE, "vmfence.cli.entry", "")):
        archive.write(name, LAUNCHER.format(python=PYTHON, module=module, arguments=arguments).encode(), 0o755)
    site = Path(sysconfig.get_path("platlib"))
    for package in ("click", "lxml"):
        archive.add_tree(site / package, f"{PACKAGES}/{package}")
    for path in [*site.glob("libvirt*.py"), *site.glob("libvirtmod*.so")]:
        archive.add(path, f"{PACKAGES}/{path.name}")
    _add_libraries(archive, [*site.glob("libvirtmod*.so"), *site.glob("lxml/*.so")])


def _add_reference(archive: Archive) -> None:
    """Add fence_virt, and of fence_virtd what VM sockets need: over all else it is asked from outside."""
    modules = [Path(reference.MODULES, name) for name in ("virt.so", "vsock.so")]
    programs = [Path(reference.FENCE_VIRT), Path(reference.FENCE_VIRTD), *modules]
    libraries = _add_libraries(archive, programs)
    folders = [path.parent for path in libraries if path.name == "libnss3.so"]
    nss = [path for folder in folders for path in folder.glob("lib*3.*") if path.name in NSS_PARTS]
    _add_libraries(archive, [path for path in nss if path.suffix == ".so"])
    for path in [*programs, *nss]:
        archive.add(path)


def _add_libraries(archive: Archive, programs: Iterable[Path]) -> list[Path]:
    """Add the shared libraries that *programs* load, where they are looked for; return their paths."""
    done = subprocess.run(
        ["ldd", *map(str, programs)], stdout=subprocess.PIPE, check=True, encoding="utf-8", env=clean_environment()
    )
    libraries = sorted(set(map(Path, re.findall(r"(?:=> |^\s)(/\S+) \(0x", done.stdout, re.MULTILINE))))
    for path in libraries:
        archive.add(path)
    return libraries
