"""What the fencer tells, as values: events of its history, lists of names, the metadata of agents.  Pure.

Source: Pacemaker's XML schemas (api/fence-event, api/stonith_admin), the fence agents' metadata schema, and the text
forms of 1.1 and 2.0, which have no XML.  Elements and attributes that are not known are ignored: newer ones add some.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from vmfence import xmldoc
from vmfence.errors import VmfenceError

SUCCESS, FAILED, PENDING = "success", "failed", "pending"
A_HUMAN = "a human"  # the delegate of what somebody confirmed by hand, with stonith_admin --confirm (fenced_remote.c)
_HISTORY, _METADATA = "the fencer's history", "the agent's metadata"


@dataclass(frozen=True)
class FencingEvent:
    """One fencing: *status* is success, failed or pending.

    *action* as the fencer names it (reboot, off, on), *client* and *origin*: the program and the node that asked for
    it, *delegate*: the node that did it, *completed*: when it ended, as written; *reason* of a failure.
    """

    status: str
    action: str
    target: str
    client: str
    origin: str
    delegate: str = ""
    completed: str = ""
    reason: str = ""

    def completed_at(self) -> float | None:
        """Return when it ended, in seconds of the wall clock; None when that is unknown or in an unknown form."""
        text = re.sub(r"\s*Z$", "+00:00", self.completed.strip())
        text = re.sub(r"\s+([+-]\d\d):?(\d\d)$", r"\1:\2", text)
        for form in ("%Y-%m-%d %H:%M:%S%z", "%Y-%m-%d %H:%M:%S.%f%z", "%Y-%m-%d %H:%M:%S", "%a %b %d %H:%M:%S %Y"):
            try:
                return datetime.strptime(text, form).timestamp()
            except (ValueError, OverflowError):
                continue
        return None


@dataclass(frozen=True)
class Parameter:
    """One parameter of an agent.  *obsoletes*: the older name that it replaces; *choices* of a select."""

    name: str
    type: str = "string"
    default: str = ""
    required: bool = False
    deprecated: bool = False
    obsoletes: str = ""
    shortdesc: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class AgentMetadata:
    """What an agent says of itself.  *actions*: names, in its order."""

    name: str
    shortdesc: str
    longdesc: str
    parameters: tuple[Parameter, ...]
    actions: tuple[str, ...]

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of that name."""
        return next((one for one in self.parameters if one.name == name), None)


def parse_history(text: str) -> tuple[FencingEvent, ...]:
    """Return the events in the XML of ``stonith_admin --history`` or ``crm_mon``, newest first as they stand there.

    Raises VmfenceError for what is not that XML.
    """
    root = xmldoc.parse(text, _HISTORY)
    return tuple(_event(element) for element in root.iter("fence_event"))


def _event(element: xmldoc.Element) -> FencingEvent:
    names = ("status", "action", "target", "client", "origin", "delegate", "completed", "exit-reason")
    event = FencingEvent(*(element.get(name, "") for name in names))
    if event.status not in (SUCCESS, FAILED, PENDING) or not event.target:
        raise VmfenceError(f"cannot read {_HISTORY}", f"an event of status {event.status!r} on {event.target!r}")
    return event


# Pacemaker 1.1 (fencing/admin.c) and 2.0 (lib/fencing): sentences, with -V one for every event.
_SENTENCES = (
    re.compile(
        r"(?P<delegate>.+?) (?P<status>was able to|were able to|failed to) (?P<action>.+?) node (?P<target>\S+)"
        r" on behalf of (?:(?P<client>\S+) from )?(?P<origin>\S+) at (?P<completed>.+)"
    ),
    re.compile(
        r"(?:(?P<client>\S+) at )?(?P<origin>\S+) (?P<status>wishes to) (?P<action>.+?) node (?P<target>\S+) - .*"
    ),
    re.compile(
        r"(?P<action>.+) of (?P<target>\S+) (?P<status>successful|failed|pending)(?: \((?P<reason>.*)\))?:"
        r" (?:delegate=(?P<delegate>[^,]*), )?client=(?P<client>[^,]*), origin=(?P<origin>[^,]*)"
        r"(?:, (?:completed|last-successful|last-failed)='(?P<completed>[^']*)')?(?: \(.*\))?"
    ),
)
_STATUSES = {
    "was able to": SUCCESS,
    "were able to": SUCCESS,
    "successful": SUCCESS,
    "wishes to": PENDING,
    "pending": PENDING,
}
_ACTIONS = {"turning off": "off", "turn off": "off", "unfencing": "on", "turn on": "on"}
_NOBODY = ("We", "This node")  # stands where the fencer does not know who did it
_COUNT = re.compile(r"(?:\d+|No) (?:\w+ )*(?:found|devices?|events?)", re.IGNORECASE)


def parse_history_text(text: str) -> tuple[FencingEvent, ...]:
    """Return the events in the text of ``stonith_admin --history`` of Pacemaker 1.1 and 2.0.

    Raises VmfenceError for a line that is no event, so that none is missed.
    """
    lines = (line.strip() for line in text.splitlines())
    # 1.1 shows the last success once more at the end, so equal lines are one event.
    return tuple(dict.fromkeys(_event_of_line(line) for line in lines if line and not _COUNT.fullmatch(line)))


def _event_of_line(line: str) -> FencingEvent:
    match = next(filter(None, (sentence.fullmatch(line) for sentence in _SENTENCES)), None)
    if match is None:
        raise VmfenceError(f"cannot read {_HISTORY}", f"unknown line {line[:200]!r}")
    found = {name: value or "" for name, value in match.groupdict().items()}
    found["status"] = _STATUSES.get(found["status"], FAILED)
    found["action"] = _ACTIONS.get(found["action"], found["action"])
    found["delegate"] = "" if found.get("delegate") in _NOBODY else found.get("delegate", "")
    return FencingEvent(**found)


def parse_names(text: str, what: str) -> tuple[str, ...]:
    """Return the names in the XML of ``stonith_admin -I``, ``-L`` or ``-l``, called *what* in errors."""
    root = xmldoc.parse(text, what)
    return tuple((item.text or "").strip() for item in root.iter("item"))


def parse_names_text(text: str) -> tuple[str, ...]:
    """Return the names in the text of the same: one a line, and a last line that counts them in some versions."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not _COUNT.fullmatch(line))


def parse_metadata(text: str) -> AgentMetadata:
    """Return the metadata in *text*: an agent's XML, or that of ``stonith_admin -M --output-as=xml`` around it.

    Raises VmfenceError.
    """
    root = xmldoc.parse(text, _METADATA)
    if root.tag == "pacemaker-result":
        root = xmldoc.parse(root.findtext("metadata") or "", _METADATA)
    if root.tag != "resource-agent":
        raise VmfenceError(f"cannot read {_METADATA}", f"its root is {root.tag!r}, not 'resource-agent'")
    return AgentMetadata(
        name=root.get("name", ""),
        shortdesc=root.get("shortdesc", ""),
        longdesc=_words(root.findtext("longdesc")),
        parameters=tuple(_parameters(root)),
        actions=tuple(action.get("name", "") for action in root.iterfind("actions/action")),
    )


def _parameters(root: xmldoc.Element) -> Iterator[Parameter]:
    for element in root.iterfind("parameters/parameter"):
        content = element.find("content")
        yield Parameter(
            name=element.get("name", ""),
            type="string" if content is None else content.get("type", "string"),
            default="" if content is None else content.get("default", ""),
            required=element.get("required") in ("1", "true"),
            deprecated=element.get("deprecated") in ("1", "true"),
            obsoletes=element.get("obsoletes", ""),
            shortdesc=_words(element.findtext("shortdesc")),
            choices=tuple(option.get("value", "") for option in element.iterfind("content/option")),
        )


def _words(text: str | None) -> str:
    """Return *text* with lines joined; empty lines stay, they part paragraphs."""
    paragraphs = re.split(r"\n[ \t]*\n", text or "")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).strip()
