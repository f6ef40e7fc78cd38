"""Sections of a parsed file, matched with the shape that the file should have.

Owns what concerns every section alike: unknown names and their nearest spelling, sections and keys given
twice, empty values.  Knows no section by name.  Faults are gathered, not raised, so that one run shows all of
them.  Names compare without regard to case, and of a key given twice the last one counts, as in fence_virtd
4.12.1.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable, TypeVar

from vmfence.config.grammar import Assign, Section, Tree, shown
from vmfence.config.values import BadValue, nearest
from vmfence.errors import ConfigError, ConfigErrors

T = TypeVar("T")


@dataclass(frozen=True)
class Shape:
    """What a section may hold.

    *keys* and *sections* by lower-case name; *lists*: keys that may be given any number of times; *numbered*:
    keys that may be followed by a number from 1; *many*: the section itself may be repeated and have a value.
    """

    keys: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    numbered: tuple[str, ...] = ()
    sections: Mapping[str, Shape] = field(default_factory=dict)
    many: bool = False

    def has_key(self, name: str) -> bool:
        """Tell whether the lower-case *name* is a key here."""
        base = re.sub("[1-9][0-9]{0,8}$", "", name)
        return name in self.keys or base in self.numbered


class Faults:
    """Collects what is wrong in the file at *path*."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._errors: list[ConfigError] = []
        self._warnings: list[ConfigError] = []

    def add(self, line: int, what: str, remedy: str = "") -> None:
        """Note an error on *line* (0: the file as a whole)."""
        self._errors.append(ConfigError(self._path, line, what, remedy))

    def warn(self, line: int, what: str, remedy: str = "") -> None:
        """Note something that is legal but hardly meant."""
        self._warnings.append(ConfigError(self._path, line, what, remedy))

    def close(self) -> tuple[ConfigError, ...]:
        """Return the warnings in file order.  Raises ConfigErrors if there was any error."""
        if self._errors:
            raise ConfigErrors(tuple(sorted(self._errors, key=operator.attrgetter("line"))))
        return tuple(sorted(self._warnings, key=operator.attrgetter("line")))


class Part:
    """The settings of one section, called *place* in messages.

    A section that is not in the file is a Part without settings, on the line that makes it needed.
    """

    def __init__(self, place: str, line: int, faults: Faults) -> None:
        self.place, self.line = place, line
        self._faults = faults
        self._assigns: dict[str, list[Assign]] = {}

    def keep(self, assign: Assign) -> Assign | None:
        """Add *assign*; return the one of the same name before it, if any."""
        same = self._assigns.setdefault(assign.key.lower(), [])
        same.append(assign)
        return same[-2] if len(same) > 1 else None

    def __contains__(self, key: str) -> bool:
        return key in self._assigns

    @property
    def keys(self) -> tuple[str, ...]:
        """The lower-case names of all keys given."""
        return tuple(self._assigns)

    def get(self, key: str, convert: Callable[[str], T], default: T) -> T:
        """Return the value of *key*, *default* when it is not given or wrong (then a fault is noted)."""
        found = self.all(key, convert, last_only=True)
        return found[0] if found else default

    def all(self, key: str, convert: Callable[[str], T], last_only: bool = False) -> tuple[T, ...]:
        """Return the values of every *key*, in file order, without the wrong ones (each noted as a fault)."""
        assigns = self._assigns.get(key, [])
        found: list[T] = []
        for assign in assigns[-1:] if last_only else assigns:
            try:
                found.append(convert(_filled(assign.value)))
            except BadValue as error:
                what = f"bad value \"{shown(assign.value)}\" of '{key}' in {self.place}: {error.reason}"
                self._faults.add(assign.line, what, error.remedy)
        return tuple(found)

    def fault(self, key: str, what: str, remedy: str = "") -> None:
        """Note an error on the line of *key*, or of the section when it is not given."""
        self._faults.add(self.line_of(key), what, remedy)

    def warn(self, key: str, what: str, remedy: str = "") -> None:
        """Note something legal but hardly meant on the line of *key*."""
        self._faults.warn(self.line_of(key), what, remedy)

    def line_of(self, key: str) -> int:
        """Return the line of *key*, or of the section when it is not given."""
        return self._assigns[key][-1].line if key in self._assigns else self.line


Outline = Mapping[str, "list[Part]"]


def outline(tree: Tree, shape: Shape, faults: Faults) -> Outline:
    """Return the sections of *tree* by place (``listeners/multicast``), those of one place in file order."""
    walk = _Walk(faults)
    walk.visit(tree, shape, "", Part("", 0, faults))
    return walk.parts


class _Walk:
    """Goes once through a tree and takes down its parts."""

    def __init__(self, faults: Faults) -> None:
        self.parts: dict[str, list[Part]] = {}
        self._faults = faults

    def visit(self, tree: Tree, shape: Shape, place: str, part: Part) -> None:
        for entry in tree:
            if isinstance(entry, Section):
                self._section(entry, shape, place)
            else:
                self._assign(entry, shape, part)

    def _section(self, section: Section, outer: Shape, outer_place: str) -> None:
        name = section.name.lower()
        place = f"{outer_place}/{name}".lstrip("/")
        if name not in outer.sections:
            self._unknown_section(section, outer, outer_place)
            return
        shape = outer.sections[name]
        same = self.parts.setdefault(place, [])
        if same and not shape.many:
            what = f"section {place} is given twice, on lines {same[-1].line} and {section.line}"
            self._faults.add(section.line, what, "merge them: fence_virtd would hide the first")
        part = Part(place, section.line, self._faults)
        if section.value is not None:
            part.keep(Assign(name, section.value, section.line))
            if not shape.many:
                part.warn(name, f"the value of section {place} means nothing", f"write {name} {{")
        same.append(part)
        self.visit(section.entries, shape, place, part)

    def _unknown_section(self, section: Section, outer: Shape, place: str) -> None:
        name = shown(section.name)
        if outer.has_key(section.name.lower()):
            what = f"'{name}' is a setting, not a section"
            self._faults.add(section.line, what, f'write {name} = "value";')
            return
        where = f" in {place}" if place else ""
        what, remedy = f"unknown section '{name}'{where}", nearest(section.name, outer.sections)
        self._faults.add(section.line, what, remedy if outer.sections else f"no section may stand in {place}")

    def _assign(self, assign: Assign, shape: Shape, part: Part) -> None:
        key = assign.key.lower()
        if not shape.has_key(key):
            self._unknown_key(assign, shape, part.place)
            return
        before = part.keep(assign)
        if before and key not in shape.lists:
            what = f"'{key}' is given twice in {part.place}, on lines {before.line} and {assign.line}"
            self._faults.warn(assign.line, what, "remove one: the last one counts")

    def _unknown_key(self, assign: Assign, shape: Shape, place: str) -> None:
        name = shown(assign.key)
        if assign.key.lower() in shape.sections:
            what, remedy = f"'{name}' is a section, not a setting", f"write {name} {{ ... }}"
        elif not place:
            what, remedy = f"setting '{name}' stands outside any section", "move it into its section"
        elif not shape.keys:
            what = f"setting '{name}' stands in {place}, which holds sections only"
            remedy = f"move it into one of them: {', '.join(shape.sections)}"
        else:
            what, remedy = f"unknown key '{name}' in {place}", nearest(assign.key, shape.keys)
        self._faults.add(assign.line, what, remedy)


def _filled(value: str) -> str:
    if not value.strip():
        raise BadValue("is empty", "give it a value, or remove the line")
    return value
