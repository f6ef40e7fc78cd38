"""README says what the Makefile installs, what is installed where, and which commands there are."""

from __future__ import annotations

import configparser
import re
from fnmatch import fnmatch
from pathlib import Path

import click

from vmfence.cli.main import vmfence as root

FOLDER = Path(__file__).parent.parent.parent
README = (FOLDER / "README.md").read_text()
MAKEFILE = (FOLDER / "Makefile").read_text().replace("\\\n", " ")
# "make demo" is in the first sentence of the paragraph, "make test" in the rest of it.
DEBIAN = next(text for text in README.split("\n\n") if text.startswith("`make demo` needs"))


def installed(variable: str) -> set[str]:
    """Return the packages in a variable of the Makefile, without those of variables in it."""
    lines = re.findall(rf"^{variable} \+?:?= ?(.*)$", MAKEFILE, re.M)
    text = " ".join(re.sub(r"\$\(if [^,]*\),,([^)]*)\)", r"\1", line) for line in lines)
    return set(re.sub(r"\$\(\w+\)", "", text).split())


def named(text: str) -> set[str]:
    """Return the names that are listed in *text*, which says of the last one more than its name."""
    words = re.split(r",\s+and\s+|,\s+|\s+and\s+", text)
    return {word.split()[0] for word in words if word}


def test_packages_of_the_demo() -> None:
    found = re.search(r"needs (.*?)\. `make test`", DEBIAN, re.S)
    assert found and named(found[1]) == installed("BUILD_PACKAGES")


def test_packages_of_the_tests() -> None:
    found = re.search(r"as well needs (.*?) installs only", DEBIAN, re.S)
    assert found and named(found[1].removesuffix(", which it")) == installed("TEST_PACKAGES")


def test_the_kernel_that_is_downloaded() -> None:
    script = (FOLDER / "contrib" / "fetch-guest-kernel").read_text()
    package = re.search(r"apt-cache depends (\S+)", script)
    place = re.search(r"contrib/fetch-guest-kernel (\S+)", MAKEFILE)
    assert package and place
    assert f"({package[1]})" in DEBIAN and f"`{place[1]}`" in DEBIAN


def test_what_is_linked_is_installed() -> None:
    settings = configparser.ConfigParser()
    settings.read(FOLDER / "setup.cfg")
    paths = {
        f"{folder}/{Path(path).name}"
        for folder, text in settings["options.data_files"].items()
        for path in text.split()
    }
    linked = re.findall(r"ln -s /opt/vmfence/(share/\S+)", README)
    reached = {path for path in paths if any(fnmatch(path, pattern) for pattern in linked)}
    assert reached == {path for path in paths if "/man/" not in path}


def test_every_command_has_its_row() -> None:
    rows = [text for text in README.splitlines() if text.startswith("| `vmfence")]
    said = " ".join(row.split(" | ")[0] for row in rows)
    for name in root.list_commands(click.Context(root)):
        command = root.get_command(click.Context(root), name)
        names = command.list_commands(click.Context(command)) if isinstance(command, click.Group) else [name]
        assert [one for one in names if not re.search(rf"[ `]{one}`", said)] == []


def test_both_checks_are_part_of_the_flow() -> None:
    use = README.split("\n## Use\n")[1].split("\n| command")[0]
    order = ["host setup", "host check", "guest check", "cluster add-device", "cluster check", "cluster prove"]
    at = [use.find(f"\n    vmfence {name}") for name in order]
    assert -1 not in at and at == sorted(at)
