"""The house rules as tests: who may import whom, what the agent loads, how large things are.

The import table is that of CONTRIBUTING.md, and both are compared.  What manual pages and completions must say is
compared with the program in unit/test_manual.py and real/test_completions.py.
"""

from __future__ import annotations

import ast
import graphlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Union

import pytest

from unit.fakes import Peer, peer, prove, read_request, wait_for_end
from vmfence.protocol.auth import Hash, Key

ROOT = Path(__file__).parent.parent

# Unit -> the units it may import besides itself and the version.  One without a line here is not allowed to exist.
MAY_IMPORT: dict[str, frozenset[str]] = {
    unit: frozenset(allowed.split())
    for unit, allowed in {
        "errors": "",
        "findings": "errors",
        "packetfilter": "errors proc together",
        "keyfile": "errors",
        "proc": "errors",
        "together": "errors",
        "xmldoc": "errors",
        "protocol": "errors",
        "sealing": "errors keyfile",
        "policy": "errors",
        "config": "errors protocol policy",
        "client": "errors protocol",
        "agent": "errors protocol keyfile client",
        "host": "errors findings protocol keyfile proc xmldoc policy config guest sealing packetfilter together",
        "guest": "errors findings protocol keyfile proc client sealing packetfilter",
        "cluster": "errors findings keyfile proc xmldoc protocol guest together",
        "diagnose": "errors findings proc together",
        "demo": "errors findings proc config host guest cluster",
        "__main__": "cli",
    }.items()
}
ALL = frozenset(MAY_IMPORT) - {"__main__"}
MAY_IMPORT["cli"] = ALL - {"client", "protocol", "proc", "xmldoc"}
# Package -> the only places (modules, or units) that may import it.  Any other outside package: nowhere.
ONLY_IN = {
    "click": {"vmfence.cli"},
    "libvirt": {"vmfence.host.backends"},
    "lxml": {"vmfence.xmldoc"},
    "cryptography": {"vmfence.sealing"},
    "subprocess": {"vmfence.proc"},
    "sqlite3": {"vmfence.host.signatures"},
    "asyncio": {"vmfence.host"},
    "concurrent": {"vmfence.host", "vmfence.together"},
    "threading": {"vmfence.host", "vmfence.together", "vmfence.proc"},
    "logging": {"vmfence.host"},
}
STANDARD = getattr(sys, "stdlib_module_names", frozenset())  # not known to Python 3.9
PURE = ("vmfence.protocol", "vmfence.policy", "vmfence.errors")
PURE_STANDARD = {
    "__future__",
    "collections",
    "dataclasses",
    "enum",
    "hashlib",
    "hmac",
    "ipaddress",
    "re",
    "struct",
    "typing",
}
# Function -> what it imports late, and why that is no hidden cycle.
LATE = {
    "vmfence.cli.entry.main": "the agent is started before click is loaded",
    "vmfence.agent.values.nearest": "difflib is slow to load and wanted only when something is wrong",
    "vmfence.client.ask._by_pipe": "terminals and signals, which no other transport needs",
    "vmfence.client.ask._search": "every transport there is, for transport auto alone",
}
# The places where every exception is caught: a worker, or the entry of a process.  Each fails what it does, aloud.
CATCH_ALL = {
    "vmfence.agent.main.main": "entry of the agent",
    "vmfence.together._begin.work": "worker: one call, raised again by whoever waits",
    "vmfence.host.backends.inventory._begin.read": "worker: one look at libvirt, raised again by whoever waits",
    "vmfence.host.daemon.Daemon._housekeep": "worker: one round of housekeeping",
    "vmfence.host.pool.pool.Pool.happened": "worker: one message of another host",
    "vmfence.host.pool.workers.Workers._settle": "worker: one call that may hang, raised again by whoever waits",
    "vmfence.host.service.Service._run": "worker: one power action",
    "vmfence.host.reception.Reception._run": "worker: one request",
}
AGENT_BUDGET = ("os", "sys", "time", "struct", "errno", "socket", "hashlib", "hmac", "__future__")
FUNCTION_LINES_MAX, MODULE_LINES_MAX = 50, 450
Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module(NamedTuple):
    """One source file of the package."""

    name: str
    tree: ast.Module
    lines: int

    @property
    def unit(self) -> str:
        """Return what stands for it in the table; "" for the package itself."""
        return (self.name.split(".") + [""])[1]


def read_module(path: Path) -> Module:
    parts = path.relative_to(ROOT).with_suffix("").parts
    text = path.read_text()
    return Module(".".join(parts).removesuffix(".__init__"), ast.parse(text), len(text.splitlines()))


MODULES = [read_module(path) for path in sorted((ROOT / "vmfence").rglob("*.py"))]
NAMES = {module.name for module in MODULES}
EACH = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def imported(node: ast.AST) -> Iterator[str]:
    """Return the modules that the import statement *node* names, ours down to the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module and not node.level, "no relative imports"
        for alias in node.names:
            assert alias.name != "*", "no star imports"
            below = f"{node.module}.{alias.name}"
            yield below if below in NAMES else node.module


def imports(module: Module) -> set[str]:
    return {name for node in ast.walk(module.tree) for name in imported(node)}


def named(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Return all functions and classes below *tree* with their full names."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            name = f"{prefix}.{node.name}"
            yield name, node
        yield from named(node, name)


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    for name, node in named(module.tree, module.name):
        if isinstance(node, FUNCTIONS):
            yield name, node


def is_in(name: str, places: set[str] | tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


# Imports


@EACH
def test_units_import_only_what_they_may(module: Module) -> None:
    ours = {name for name in imports(module) if name.startswith("vmfence.")}
    units = {name.split(".")[1] for name in ours} - {module.unit}
    if module.unit:
        assert module.unit in MAY_IMPORT, "a new unit: say in the table what it may import"
    assert units <= MAY_IMPORT.get(module.unit, frozenset()), f"{module.name} imports {sorted(ours)}"


def test_nobody_imports_the_command_line() -> None:
    users = {m.name for m in MODULES for name in imports(m) if is_in(name, ("vmfence.cli",)) and m.unit != "cli"}
    assert users == {"vmfence.__main__"}


@EACH
def test_outside_packages_stay_in_their_place(module: Module) -> None:
    for name in imports(module):
        package = name.split(".")[0]
        if package in ONLY_IN:
            assert is_in(module.name, ONLY_IN[package]), f"{package} belongs into {ONLY_IN[package]}"
        elif STANDARD:
            assert package == "vmfence" or package in STANDARD, f"{package} is a new dependency"


@EACH
def test_pure_modules_reach_nothing_outside(module: Module) -> None:
    if is_in(module.name, PURE):
        standard = {name.split(".")[0] for name in imports(module)} - {"vmfence"}
        assert standard <= PURE_STANDARD


def test_no_cycles() -> None:
    graph = {module.name: {name for name in imports(module) if name in NAMES} for module in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_no_late_imports() -> None:
    late = {
        name
        for module in MODULES
        for name, function in functions(module)
        if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(function))
    }
    assert late == set(LATE)


def test_the_table_of_the_contributing_guide_is_this_one() -> None:
    rows = re.findall(r"^\| `([a-z]+)/?` \|[^|]*\| ([^|]*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {unit for unit, _ in rows} == {module.unit for module in MODULES} - {"", "__main__"}
    for unit, text in rows:
        if text.startswith("all but "):
            written = ALL - set(text[len("all but ") :].split(", "))
            assert MAY_IMPORT[unit] <= written
        else:
            assert set(text.split(", ")) - {"nothing"} <= MAY_IMPORT[unit]


# What the agent loads


def loaded(code: str) -> set[str]:
    """Return the modules that *code* loads beyond the budget, ours left out."""
    program = (
        f"import {', '.join(AGENT_BUDGET)}\n"
        f"before = set(sys.modules)\n{code}\n"
        "sys.stderr.write('\\nLOADED ' + ' '.join(set(sys.modules) - before))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    names = ended.stderr.rpartition("LOADED ")[2].split()
    return {name for name in names if name.split(".")[0] != "vmfence"}


def test_the_agent_loads_little() -> None:
    assert loaded("import vmfence.agent.main") == set()


@pytest.mark.parametrize("arguments", ["-o metadata", "-h", "-V", "-o validate-all -H alpha"])
def test_local_actions_load_no_more(arguments: str) -> None:
    assert loaded(f"from vmfence.agent.main import main; main(['fence_vmfence', *{arguments.split()!r}])") == set()


def succeed(host: Peer, connection: socket.socket) -> None:
    read_request(host, connection)
    prove(connection, Key(b"k" * 32), Hash.SHA256)
    connection.sendall(b"\0")
    wait_for_end(connection)


def test_fencing_loads_no_more(tmp_path: Path) -> None:
    """A whole action over TCP: nothing is loaded on the way that the budget did not have from the start."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    with peer(succeed) as host:
        words = f"-o off -H alpha -T 127.0.0.1 -p {host.port} -k {key} -t 10".split()
        code = f"from vmfence.agent.main import main; code = main(['fence_vmfence', *{words!r}]); assert code == 0"
        assert loaded(code) == set()


# Size and form


def test_functions_are_short() -> None:
    long = {
        name: lines
        for module in MODULES
        for name, function in functions(module)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long


def test_modules_are_short() -> None:
    assert not {module.name: module.lines for module in MODULES if module.lines > MODULE_LINES_MAX}


def test_packages_hold_nothing_of_their_own() -> None:
    for path in (ROOT / "vmfence").rglob("__init__.py"):
        assert path.read_text() == "" or path.parent.name == "vmfence"


def catches_all(node: ast.AST) -> bool:
    """Whether *node* keeps every exception to itself; one that only tidies up and raises again does not."""
    if not isinstance(node, ast.ExceptHandler) or ast.unparse(node.body[-1]) == "raise":
        return False
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in caught)


def test_nothing_catches_all_but_workers_and_entries() -> None:
    everywhere = [node for module in MODULES for node in ast.walk(module.tree) if catches_all(node)]
    innermost = {
        node: name  # an inner function comes after the one around it
        for module in MODULES
        for name, function in functions(module)
        for node in ast.walk(function)
        if catches_all(node)
    }
    assert sorted(innermost.values()) == sorted(CATCH_ALL)
    assert len(everywhere) == len(CATCH_ALL)


@EACH
def test_libraries_do_not_print_or_exit(module: Module) -> None:
    if module.name == "vmfence.__main__":
        return
    calls = [ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    assert not {"print", "exit", "quit", "sys.exit"} & set(calls)
    assert "os._exit" not in calls or module.name == "vmfence.host.process"


def methods_with_docstring(package: str) -> set[str]:
    """Return the names of all documented methods in *package*: what carries one of them out need not repeat it."""
    return {
        name.rpartition(".")[2]
        for module in MODULES
        if module.name.rpartition(".")[0] == package
        for name, function in functions(module)
        if ast.get_docstring(function)
    }


@EACH
def test_what_is_public_has_a_docstring(module: Module) -> None:
    assert ast.get_docstring(module.tree) or not module.lines
    elsewhere = methods_with_docstring(module.name.rpartition(".")[0])
    classes = [node for node in module.tree.body if isinstance(node, ast.ClassDef)]
    public = [module.tree, *(each for each in classes if not each.name.startswith("_"))]
    for holder in public:
        for node in holder.body:
            if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name.startswith("_"):
                continue
            is_repeated = isinstance(holder, ast.ClassDef) and node.name in elsewhere
            assert ast.get_docstring(node) or is_repeated, f"{module.name}: {node.name} has no docstring"
