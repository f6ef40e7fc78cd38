"""Ask Pacemaker's own tools: configuration, status, fencer, agents.  Reads only; runs everything through proc.

XML since 2.0.3, the text forms before.  Exit codes: Pacemaker's include/crm/common/results.h (2.0 and later); 1.1
ended with a library code or errno instead, so there the words of the C library tell what is not running.
"""

from __future__ import annotations

import grp
import os
import re
import stat
from collections.abc import Mapping
from typing import Protocol

from vmfence import proc, xmldoc
from vmfence.cluster import cib, fencer, status
from vmfence.cluster.cib import Cib
from vmfence.cluster.fencer import AgentMetadata, FencingEvent
from vmfence.cluster.status import Status
from vmfence.errors import ClusterUnreachable, CommandError, NotPermitted, ToolMissing, UsageError, VmfenceError

DEADLINE_S = 10.0
METADATA_S = 25.0
_XML_SINCE, _OPTIONS_SINCE = (2, 0, 3), (2, 1, 8)
_NOT_PERMITTED, _NOT_CONNECTED, _NO_SUCH = 4, 102, 105
_NOT_CONNECTED_WORDS = ("Transport endpoint is not connected", "Connection refused")
_XML = "--output-as=xml"
_GROUP = "haclient"
_FORBIDDEN = "this user may not ask the cluster"


class Run(Protocol):
    """What runs a program: proc.run, or a test's stand-in."""

    def __call__(self, argv: list[str], timeout_s: float, environment: Mapping[str, str] | None) -> proc.Result: ...


class Pacemaker:
    """The Pacemaker of this node.  *cib_file*: its configuration is read from that file, no cluster is needed.

    Everything raises ToolMissing when Pacemaker is not installed, ClusterUnreachable when it does not run,
    NotPermitted when this user may not ask, DeadlineExceeded when it does not answer, CommandError for the rest.
    """

    def __init__(self, cib_file: str | None = None, run: Run = proc.run) -> None:
        self.cib_file = cib_file
        self._run = run
        self._version: tuple[int, ...] | None = None

    def version(self) -> tuple[int, ...]:
        """Return the installed version, as (2, 1, 5); asked once."""
        if self._version is None:
            text = self._text(["stonith_admin", "--version"])
            match = re.match(r"Pacemaker (\d{1,6}(?:\.\d{1,6})*)", text)
            if match is None:
                raise VmfenceError("cannot tell the version of Pacemaker", f"it says {text[:80]!r}")
            self._version = tuple(map(int, match[1].split(".")))
        return self._version

    def load_cib(self) -> Cib:
        """Return the configuration: the cluster's, or that in the file."""
        if self.cib_file:
            return cib.parse(_read(self.cib_file), f"the CIB in {self.cib_file}")
        return cib.parse(self._text(["cibadmin", "--query"]))

    def load_status(self) -> Status:
        """Return what the cluster is doing now; with a file only what is configured, every node offline."""
        xml = [_XML] if self._has_xml() else ["--as-xml"]
        return status.parse(self._text(["crm_mon", "-1", "--inactive", *xml]))

    def node_name(self) -> str:
        """Return the cluster's name for this machine; with a file its host name, since no cluster is asked then."""
        return os.uname().nodename if self.cib_file else self._text(["crm_node", "--name"]).strip()

    def installed_agents(self) -> tuple[str, ...]:
        """Return the names of the fence agents that Pacemaker finds on this node."""
        return self._names(["stonith_admin", "--list-installed"], "the list of agents")

    def agent_metadata(self, agent: str) -> AgentMetadata:
        """Return what *agent* says of itself, through Pacemaker.  Raises UsageError when there is no such agent."""
        argv = ["stonith_admin", "--metadata", f"--agent={agent}"]
        try:
            text = self._xml_or_text(argv, METADATA_S)
        except CommandError as error:
            if error.status != _NO_SUCH:
                raise
            raise _no_agent(agent) from error
        if not text.lstrip().startswith("<"):  # 1.1 answers "(null)", with success
            raise _no_agent(agent)
        return fencer.parse_metadata(text)

    def registered_devices(self) -> tuple[str, ...]:
        """Return the ids of the devices that this node's fencer knows; that does not mean that they work."""
        return self._names(["stonith_admin", "--list-registered"], "the list of devices")

    def devices_for(self, node: str) -> tuple[str, ...]:
        """Return the ids of the devices that can fence *node*, as the fencer itself sees it."""
        return self._names(["stonith_admin", f"--list={node}"], f"the list of devices for {node}", METADATA_S)

    def fencing_history(self, node: str | None = None) -> tuple[FencingEvent, ...]:
        """Return what was fenced, of *node* or of all, in the fencer's order: since 2.0 newest first."""
        text = self._xml_or_text(["stonith_admin", f"--history={node or '*'}", "--verbose"])
        return fencer.parse_history(text) if self._has_xml() else fencer.parse_history_text(text)

    def option_names(self) -> frozenset[str] | None:
        """Return the names of the cluster properties that Pacemaker lists; None before 2.1.8, which lists none."""
        if self.version() < _OPTIONS_SINCE:
            return None
        text = self._text(["crm_attribute", "--list-options=cluster", "--all", _XML])
        return frozenset(one.get("name", "") for one in xmldoc.parse(text, "the list of properties").iter("parameter"))

    def _has_xml(self) -> bool:
        return self.version() >= _XML_SINCE

    def _names(self, argv: list[str], what: str, timeout_s: float = DEADLINE_S) -> tuple[str, ...]:
        text = self._xml_or_text(argv, timeout_s)
        return fencer.parse_names(text, what) if self._has_xml() else fencer.parse_names_text(text)

    def _xml_or_text(self, argv: list[str], timeout_s: float = DEADLINE_S) -> str:
        return self._text([*argv, _XML] if self._has_xml() else argv, timeout_s)

    def _text(self, argv: list[str], timeout_s: float = DEADLINE_S) -> str:
        """Return the standard output of *argv*, which must end with success."""
        environment = {"PATH": proc.system_path(), **({"CIB_file": self.cib_file} if self.cib_file else {})}
        try:
            result = self._run(argv, timeout_s, environment)
        except ToolMissing as error:
            raise ToolMissing(error.what, error.why, "install pacemaker; on a node of a cluster it is there") from error
        if result.status != 0:
            raise _failure(result)
        return result.stdout


def _failure(result: proc.Result) -> VmfenceError:
    """Return the error that *result* means."""
    said = _said(result)
    if result.status == _NOT_CONNECTED or any(words in said for words in _NOT_CONNECTED_WORDS):
        if not _may_ask():  # who may not ask is told the same (2.1.5)
            why = f"only root and the group {_GROUP} may ask it, if it runs; {result.argv[0]}: {_last(said)}"
            return NotPermitted(_FORBIDDEN, why, "run this as root")
        remedy = "start it on this node with: pcs cluster start (or systemctl start pacemaker)"
        return ClusterUnreachable("no cluster is running on this node", f"{result.argv[0]}: {_last(said)}", remedy)
    if result.status == _NOT_PERMITTED or "Permission denied" in said:
        return NotPermitted(_FORBIDDEN, f"{result.argv[0]}: {_last(said)}", "run this as root")
    return CommandError(result.argv, result.status, said)


def _may_ask() -> bool:
    """Return whether this user is one that Pacemaker answers."""
    try:
        return os.geteuid() == 0 or grp.getgrnam(_GROUP).gr_gid in (os.getegid(), *os.getgroups())
    except KeyError:
        return False


def _said(result: proc.Result) -> str:
    """Return what the program wrote about its failure: in XML mode that stands in its standard output."""
    if not result.stdout.lstrip().startswith("<"):
        return result.stderr or result.stdout
    try:
        root = xmldoc.parse(result.stdout, result.argv[0])
    except VmfenceError:  # 2.1.5 repeats control characters of the request as they are
        return result.stderr or "its answer cannot be read"
    errors = [(error.text or "").strip() for error in root.iterfind("status/errors/error")]
    element = root.find("status")
    message = "" if element is None else element.get("message", "")
    return "\n".join([result.stderr.strip(), *(errors or [message])]).strip()


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1].strip() if lines else "it does not say why"


def _no_agent(agent: str) -> UsageError:
    return UsageError(
        f"there is no usable fence agent {agent!r}",
        "Pacemaker on this node does not find it, or gets no metadata from it",
        "vmfence cluster agents lists those that there are",
    )


def _read(path: str) -> bytes:
    """Return the content of the regular file *path*.  Raises NotPermitted, VmfenceError."""
    what = f"cannot read the CIB file {path}"
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise VmfenceError(what, "it is not a regular file")
            return file.read(xmldoc.SIZE_MAX + 1)
    except PermissionError as error:
        raise NotPermitted(what, error.strerror or str(error)) from error
    except OSError as error:
        raise VmfenceError(what, error.strerror or str(error)) from error
