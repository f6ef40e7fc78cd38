"""Completions, asked for in a real bash, zsh and fish: the words of the program, and nothing started to find them."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import click
import pytest

from lab.desk import Terminal
from vmfence.agent.options import ALIASES, COMMAND_LINE_ONLY, OPTIONS
from vmfence.agent.values import actions, hashes
from vmfence.cli.main import vmfence as root
from vmfence.client.transport import KINDS
from vmfence.cluster import inquiry, properties
from vmfence.cluster import options as device_options
from vmfence.cluster.check.checks import CHECKS
from vmfence.config.listeners import SERIAL_MODES
from vmfence.config.settings import BACKENDS
from vmfence.host import network, sections

FOLDER = Path(__file__).parent.parent.parent / "completions"
SHELLS = ("bash", "zsh", "fish")
LIMIT_S = 60
HASHES = set(hashes())
ACTIONS = set(actions()) - {"null"}  # it only ever fails: not offered
FAMILIES = {"auto", "ipv4", "ipv6"}
TRANSPORTS = set(KINDS)
SETTABLE = {name for one in properties.PROPERTIES if not one.is_generated for name in (one.name, one.old_name) if name}
AGENT = {f"-{o.letter}" for o in (*OPTIONS, *COMMAND_LINE_ONLY) if o.letter}
AGENT |= {f"--{o.name}" for o in (*OPTIONS, *COMMAND_LINE_ONLY)}
HOSTILE = "a$(touch hit)`touch hit`;touch hit'"
Complete = Callable[[str], set[str]]

# Words that are typed, whole, before the cursor; bash cuts at =, as readline does.
BASH = r"""
. "$FOLDER/${LINE%% *}.bash"
COMP_LINE=$LINE
COMP_POINT=${#LINE}
eval "COMP_WORDS=($WORDS)"
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_vmfence "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
(( ${#COMPREPLY[@]} )) && printf '%s\n' "${COMPREPLY[@]}"
"""
# An interactive zsh whose first prompt completes the line, notes every match that is added, and ends.
ZSHRC = r"""
fpath=($FOLDER $fpath)
autoload -U compinit
compinit $([[ -e $DUMP ]] && echo -C) -u -d $DUMP
unsetopt auto_list auto_menu  # nobody reads the terminal
compadd() {
  local -a found
  if [[ ${@[1,(i)(-|--)]} != *-[OAD]\ * ]]; then
    builtin compadd -A found "$@"
    (( $#found )) && print -rl -- $found >>$OUT
  fi
  builtin compadd "$@"
}
zle-line-init() {
  BUFFER=$LINE CURSOR=$#LINE
  zle complete-word
  exit
}
zle -N zle-line-init
"""
FISH = 'source $FOLDER/(string split " " $LINE)[1].fish; complete -C "$LINE"'


class Shell:
    """One of SHELLS in an empty folder, with a vmfence that notes its starts and lists the guests in a file.

    It uses copies of the completions that look for interfaces in the folder *net*, and give programs more time.
    """

    def __init__(self, name: str, folder: Path, dump: Path) -> None:
        self.name, self.folder, self.net = name, folder, folder / "net"
        completions = folder / "completions"
        shutil.copytree(FOLDER, completions)
        for path in completions.iterdir():
            text = path.read_text().replace("/sys/class/net", str(self.net))
            path.write_text(text.replace("timeout 2 ", f"timeout {LIMIT_S} "))
        self.guests = folder / "guests"
        self.guests.write_text("")
        program = folder / "bin" / "vmfence"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >>{folder}/started\ncat {self.guests}\n')
        program.chmod(0o755)
        self._environment = {
            **{"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(folder), "ZDOTDIR": str(folder)},
            **{"FOLDER": str(completions), "OUT": str(folder / "out"), "TERM": "dumb", "LC_ALL": "C.UTF-8"},
            "DUMP": str(dump),
        }

    def started(self) -> list[str]:
        """Return with which arguments vmfence was started."""
        path = self.folder / "started"
        return path.read_text().splitlines() if path.exists() else []

    def set(self, name: str, value: str) -> None:
        """Set a variable of the environment."""
        self._environment[name] = value

    def use_the_program(self) -> None:
        """Put the program itself in the place of the vmfence that only lists."""
        (self.folder / "bin" / "vmfence").write_text(f'#!/bin/sh\nexec {sys.executable} -m vmfence "$@"\n')

    def complete(self, line: str) -> set[str]:
        """Return what is offered at the end of *line*, without descriptions and the = of long options."""
        found = {"bash": self._bash, "zsh": self._zsh, "fish": self._fish}[self.name](line)
        # Some shells repeat what stands before an attached value.
        return {word.partition("=")[2] or word.rstrip("=") for word in found if word}

    def command(self, argv: list[str]) -> list[str]:
        """Return *argv* with the environment of this shell."""
        return ["env", *(f"{name}={value}" for name, value in self._environment.items()), *argv]

    def _bash(self, line: str) -> list[str]:
        words = " ".join(shlex.quote(word) for word in line.replace("=", " = ").split(" "))
        return self._run(["bash", "--norc", "-c", BASH], {"LINE": line, "WORDS": words})

    def _fish(self, line: str) -> list[str]:
        offered = self._run(["fish", "--no-config", "-c", FISH], {"LINE": line})
        return [word.partition("\t")[0] for word in offered]

    def _zsh(self, line: str) -> list[str]:
        (self.folder / ".zshrc").write_text(ZSHRC)
        out = self.folder / "out"
        out.write_text("")
        ours, theirs = pty.openpty()
        try:
            self._run(["zsh", "--no-global-rcs", "-i"], {"LINE": line}, stdin=theirs, stdout=theirs, stderr=theirs)
        finally:
            os.close(ours)
            os.close(theirs)
        return out.read_text().splitlines()

    def _run(self, argv: list[str], variables: dict[str, str], **streams: int) -> list[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        ended = subprocess.run(
            argv, **{**pipes, **streams}, env={**self._environment, **variables}, cwd=self.folder, timeout=LIMIT_S
        )
        assert not ended.stderr, ended.stderr.decode()
        return (ended.stdout or b"").decode().splitlines()


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    if not shutil.which(request.param):
        pytest.skip(f"needs {request.param}")
    # What zsh finds out about all its completions at the first start, for the later ones.
    return Shell(request.param, tmp_path, tmp_path_factory.getbasetemp() / "zcompdump")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield *command* and all below it, each with the words that name it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


COMMANDS = {" ".join(("vmfence", *path)): command for path, command in commands(root) if path != ("agent",)}


def options(command: click.Command) -> set[str]:
    """Return all spellings of all options of *command*."""
    found = {word for parameter in command.params for word in parameter.opts if isinstance(parameter, click.Option)}
    return found | {"-h", "--help"}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_option_of_a_command_and_no_other(line: str, shell: Shell) -> None:
    assert shell.complete(f"{line} -") == options(COMMANDS[line])
    assert shell.started() == []


@pytest.mark.parametrize("line", [line for line, command in COMMANDS.items() if isinstance(command, click.Group)])
def test_every_command_of_a_group_and_no_other(line: str, shell: Shell) -> None:
    command = COMMANDS[line]
    assert isinstance(command, click.Group)
    offered = {word for word in shell.complete(f"{line} ") if not word.startswith("-")}
    assert offered == set(command.list_commands(click.Context(command)))
    assert shell.started() == []


@pytest.mark.parametrize("line", ["fence_vmfence", "vmfence agent"])
def test_every_option_of_the_agent_and_no_other(line: str, shell: Shell) -> None:
    assert shell.complete(f"{line} -") == AGENT
    assert not {f"--{alias}" for alias in ALIASES} & AGENT
    assert shell.started() == []


VALUES = [
    ("fence_vmfence -o ", ACTIONS),
    ("fence_vmfence -d -o o", {"on", "off"}),
    ("fence_vmfence --action=l", {"list", "list-status"}),
    ("vmfence agent --action ", ACTIONS),
    ("fence_vmfence -c ", HASHES),
    ("fence_vmfence --auth=", HASHES),
    ("vmfence agent -T ::1 -C sha5", {"sha512"}),
    ("fence_vmfence -i ", FAMILIES),
    ("vmfence list -c ", HASHES),
    ("vmfence guest list --json -C ", HASHES),
    ("vmfence list --ip-family=ip", {"ipv4", "ipv6"}),
    ("vmfence host configure --listener ", set(sections.LISTENERS)),
    ("vmfence host configure --listener tcp --listener=v", {"vsock", "virtio"}),
    ("vmfence host configure --backend=", set(BACKENDS)),
    ("vmfence host configure --hash ", HASHES),
    ("vmfence host configure --yes --auth=sha2", {"sha256"}),
    ("vmfence host configure --family ", FAMILIES - {"auto"}),
    ("vmfence host configure --serial-mode=", set(SERIAL_MODES)),
    ("vmfence list --transport ", TRANSPORTS),
    ("vmfence host configure --name-mode ", {"name", "uuid"}),
    ("vmfence host setup --listener ", set(sections.LISTENERS)),
    ("vmfence host setup --dry-run --listener=t", {"tcp"}),
    ("vmfence cluster add-device --agent ", set(inquiry.AGENTS)),
    ("vmfence cluster add-device fence-a --agent=fence_v", {"fence_vmfence", "fence_virt"}),
    ("vmfence cluster add-device --hash ", HASHES),
    ("vmfence cluster add-device --auth=", HASHES),
    ("vmfence cluster add-device --ip-family ", FAMILIES),
    ("vmfence cluster add-device --transport ", TRANSPORTS),
    ("vmfence cluster add-device --pcmk-host-check=", set(device_options.HOST_CHECKS)),
    ("vmfence cluster properties set fencing-e", {"fencing-enabled"}),
    ("vmfence cluster properties --cib x set --yes ", SETTABLE),
    ("vmfence cluster properties --json s", {"set"}),
]


@pytest.mark.parametrize(("line", "expected"), VALUES)
def test_values(line: str, expected: set[str], shell: Shell) -> None:
    assert shell.complete(line) == expected
    assert shell.started() == []


@pytest.mark.parametrize(
    "line",
    [
        *("fence_vmfence -k fen", "fence_vmfence --key_file=fen", "vmfence agent -o off -k fen"),
        *("vmfence list -D fen", "vmfence list --serial-device=fen"),
        *("vmfence list -k fen", "vmfence guest list --key-file fen", "vmfence host keygen --check fen"),
        *("vmfence host configure --import fen", "vmfence host configure --key-file=fen", "vmfence host list -f fen"),
        *("vmfence host setup -f fen", "vmfence host setup --key-file fen", "vmfence host configure --yes -f fen"),
        *("vmfence host configure --fenced-command fen", "vmfence host configure --yes --fenced-command=fen"),
        *("vmfence host daemon -f fen", "vmfence host daemon --config=fen", "vmfence host daemon -w -p fen"),
        *(f"vmfence cluster {name} --cib fen" for name in ("add-device", "remove-device", "map", "devices", "check")),
        *("vmfence cluster add-device --key-file=fen", "vmfence cluster add-device x --serial-device fen"),
        *("vmfence cluster properties --cib fen", "vmfence cluster properties set --cib fen"),
        *("vmfence cluster check --record fen", "vmfence cluster prove node --record=fen"),
    ],
)
def test_files(line: str, shell: Shell) -> None:
    (shell.folder / "fence.key").write_text("")
    assert shell.complete(line) == {"fence.key"}


NUMBERS = [
    "fence_vmfence -t ",
    "fence_vmfence --ipport=",
    "vmfence list -p ",
    "vmfence host daemon -d ",
    "vmfence host keygen --bytes ",
    "vmfence host configure --port ",
    "vmfence host configure --uri=",
    "vmfence host list --uri ",
    "vmfence host setup --uri ",
    "vmfence host configure --serial-channel ",
    "vmfence list --channel-address ",
    "vmfence cluster add-device --ipport ",
    "vmfence cluster add-device --pcmk-reboot-timeout=",
    "vmfence cluster fence --timeout ",
    "vmfence cluster properties set stonith-timeout=",
]


@pytest.mark.parametrize("line", NUMBERS)
def test_nothing_where_only_the_user_knows(line: str, shell: Shell) -> None:
    (shell.folder / "fence.key").write_text("")
    assert shell.complete(line) == set()


@pytest.mark.parametrize("option", ["-n ", "-H ", "--plug=", "--port ", "--domain="])
def test_guests_come_from_the_host(option: str, shell: Shell) -> None:
    (shell.folder / "fence.key").write_text("")
    uuid = "44179d3f-6c63-474f-a212-20c8b4b25b16"
    shell.guests.write_text(f"{'alpha':<32} {uuid} on\n{'alto':<32} {uuid} off\n{'b' * 40} {uuid} on\n")
    assert shell.complete(f"fence_vmfence -o off -k fence.key -T ::1 {option}al") == {"alpha", "alto"}
    assert shell.complete(f"vmfence agent --key_file=fence.key {option}b") == {"b" * 40}
    assert set(shell.started()) == {"list -t 1 -k fence.key -T ::1", "list -t 1 -k fence.key"}


TABLE = """NAME         UUID                                  STATE     BRIDGES  MAY BE FENCED BY
alpha        44179d3f-6c63-474f-a212-20c8b4b25b16  running   br0      everybody with the key
alto beta 2  44179d3f-6c63-474f-a212-20c8b4b25b17  shut off  none     web, db
"""


def test_guests_of_the_history_come_from_libvirt(shell: Shell) -> None:
    assert shell.complete("vmfence host history -H ") == set()
    shell.guests.write_text(TABLE)
    assert shell.complete("vmfence host history --guest=alp") == {"alpha"}
    offered = shell.complete("vmfence host history -f own.conf --json -H al")
    assert {word.replace("\\", "") for word in offered} == {"alpha", "alto beta 2"}
    assert shell.started() == ["host list", "host list", "host list -f own.conf"]


CIB = """<cib>
  <configuration>
    <crm_config/>
    <nodes>
      <node id="1" uname="nginx-01"/>
      <node uname="nginx-02" id="2" type="member">
        <instance_attributes id="nodes-2"><nvpair id="a" name="standby" value="off"/></instance_attributes>
      </node>
      <node id="3" uname="HOSTILE"/>
    </nodes>
    <resources>
      <primitive class="ocf" id="no-device" provider="heartbeat" type="Dummy"/>
      <primitive id="fence-a" class="stonith" type="fence_vmfence">
        <instance_attributes id="a-b"><nvpair id="c" name="pcmk_host_map" value="a:b"/></instance_attributes>
      </primitive>
      <primitive class="stonith" type="fence_xvm" id="fence-b"/>
    </resources>
    <constraints/>
  </configuration>
  <status/>
</cib>
"""
NODES = {"nginx-01", "nginx-02"}
HOSTILE_NODE = HOSTILE.rstrip("'")  # what XML has to escape is not offered
OF_NODES = [
    *("fence ", "fence --off --timeout 3 ", "history ", "history --json ", "prove ", "prove nginx-01 --yes "),
    *("add-device --node ", "add-device --node=", "add-device fence-a --map "),
]
OF_DEVICES = ["remove-device ", "remove-device --yes ", "add-device ", "add-device --node nginx-01 "]


@pytest.fixture
def cluster(shell: Shell) -> Shell:
    """A shell beside the configuration of a cluster in own.xml, which Pacemaker's tools take for the cluster."""
    if not shutil.which("cibadmin"):
        pytest.skip("needs cibadmin")
    (shell.folder / "own.xml").write_text(CIB.replace("HOSTILE", HOSTILE_NODE))
    shell.set("CIB_file", "own.xml")
    return shell


@pytest.mark.parametrize("line", OF_NODES)
def test_nodes_come_from_the_cluster(line: str, cluster: Shell) -> None:
    assert {word.rstrip(":") for word in cluster.complete(f"vmfence cluster {line}n")} == NODES
    assert {word.rstrip(":") for word in cluster.complete(f"vmfence cluster {line}nginx-02")} == {"nginx-02"}
    assert cluster.started() == []


@pytest.mark.parametrize("line", OF_DEVICES)
def test_devices_come_from_the_cluster(line: str, cluster: Shell) -> None:
    assert cluster.complete(f"vmfence cluster {line}fence") == {"fence-a", "fence-b"}
    assert cluster.complete(f"vmfence cluster {line}no-dev") == set()
    assert cluster.started() == []


def test_nodes_and_devices_of_a_file(cluster: Shell) -> None:
    text = CIB.replace("nginx-01", "other").replace("fence-a", "other")
    (cluster.folder / "other.xml").write_text(text)
    assert cluster.complete("vmfence cluster add-device --cib other.xml --node o") == {"other"}
    assert cluster.complete("vmfence cluster remove-device --cib=other.xml o") == {"other"}


@pytest.mark.parametrize("line", ["fence ", "history ", "prove ", "add-device ", "add-device --map "])
def test_without_a_cluster_nothing_is_offered(line: str, cluster: Shell) -> None:
    for text in (None, "", "no xml", "<cib"):
        (cluster.folder / "own.xml").unlink() if text is None else (cluster.folder / "own.xml").write_text(text)
        assert cluster.complete(f"vmfence cluster {line}n") == set()


def test_the_name_of_a_node_is_never_run(cluster: Shell) -> None:
    offered = cluster.complete("vmfence cluster fence a")
    if cluster.name == "bash":  # the others quote what they insert
        assert [shlex.split(word) for word in offered] == [[HOSTILE_NODE]]
    assert not (cluster.folder / "hit").exists()


def test_agents_are_those_that_pacemaker_finds(shell: Shell) -> None:
    if not shutil.which("stonith_admin"):
        pytest.skip("needs stonith_admin")
    listed = subprocess.run(["stonith_admin", "-I"], capture_output=True, text=True, check=False).stdout.splitlines()
    names = {line.strip() for line in listed if line.startswith("fence_")}
    assert shell.complete("vmfence cluster describe fence_") == names
    assert not {word for word in shell.complete("vmfence cluster describe --json ") if " " in word}


@pytest.mark.parametrize("option", ["--only ", "--skip=", "--json --only cluster-no-device --skip ", "--explain "])
def test_codes_are_those_of_the_checks(option: str, shell: Shell) -> None:
    shell.use_the_program()
    codes = {check.code for check in CHECKS}
    assert shell.complete(f"vmfence cluster check {option}") == codes | ({"all"} if "explain" in option else set())
    wanted = {code for code in codes if code.startswith("cluster-key")}
    assert shell.complete(f"vmfence cluster check {option}cluster-key") == wanted


def add_interface(shell: Shell, name: str, *entries: str) -> None:
    (shell.net / name).mkdir(parents=True)
    for entry in entries:
        (shell.net / name / entry).mkdir()


INTERFACE = ["host setup --interface ", "host setup --interface=", "host configure --interface "]


@pytest.mark.parametrize("option", INTERFACE)
def test_interfaces_are_those_of_the_host(option: str, shell: Shell) -> None:
    none = {"none"} if "configure" in option else set()
    assert shell.complete(f"vmfence {option}") == none
    add_interface(shell, "br0", "bridge")
    add_interface(shell, "br1.100")
    add_interface(shell, "vnet7", "master")
    (shell.net / "bonding_masters").write_text("")
    assert shell.complete(f"vmfence {option}") == {"br0", "br1.100"} | none
    assert shell.complete(f"vmfence {option}br1") == {"br1.100"}
    assert shell.started() == []


TYPED = {
    "vmfence host set\t--interf\tbr\t--listener mul\t": "host setup --interface br7 --listener multicast",
    "vmfence host setup --interface=br\t": "host setup --interface=br7",
    "vmfence host configure --listener vs\t--print": "host configure --listener vsock --print",
    "vmfence host history -H wo\t": "host history -H wolf's den",
    "vmfence agent -k fence.key -o of\t-H wi\t": "agent -k fence.key -o off -H wind",
    "vmfence cluster ch\t--ex\tal\t": "cluster check --explain all",
    "vmfence cluster add\t--map nginx-02\tvm --of\t": "cluster add-device --map nginx-02:vm --offline",
    "vmfence cluster prop\tset stonith-e\tfalse --dr\t": "cluster properties set stonith-enabled=false --dry-run",
}


@pytest.mark.parametrize("line", TYPED)
def test_typed_into_an_interactive_bash(line: str, tmp_path: Path) -> None:
    shell = Shell("bash", tmp_path, tmp_path)
    add_interface(shell, "br7", "bridge")
    (tmp_path / "fence.key").write_text("")
    (tmp_path / "own.xml").write_text(CIB)
    shell.set("CIB_file", "own.xml")
    uuid = "44179d3f-6c63-474f-a212-20c8b4b25b16"
    shell.guests.write_text(f"{'wind':<32} {uuid} on\n" if "agent" in line else f"wolf's den  {uuid}  running\n")
    with Terminal(shell.command(["bash", "--norc", "--noprofile", "-i"])) as terminal:
        terminal.expect(r"[$#] $")
        terminal.type("cd; PS1='ready> '; . $FOLDER/vmfence.bash; clear\n")
        terminal.expect("ready> $")
        terminal.type(f"{line}\n")
        terminal.expect("ready> $")
        terminal.type("exit\n")
        terminal.end()
    assert shell.started()[-1] == TYPED[line]


def test_interfaces_of_this_host(shell: Shell) -> None:
    shell.net.symlink_to("/sys/class/net")
    heard = {one.name for one in network.read_interfaces() if one.master is None}
    assert "lo" in heard
    assert shell.complete("vmfence host setup --interface ") == heard


def test_without_a_key_nobody_is_asked_for_guests(shell: Shell) -> None:
    assert shell.complete("fence_vmfence -k missing -H ") == set()
    assert shell.started() == []


def test_the_name_of_a_guest_is_never_run(shell: Shell) -> None:
    (shell.folder / "fence.key").write_text("")
    shell.guests.write_text(f"{HOSTILE} 44179d3f-6c63-474f-a212-20c8b4b25b16 on\n")
    offered = shell.complete("fence_vmfence -k fence.key -H a")
    if shell.name == "bash":  # the others quote what they insert
        assert [shlex.split(word) for word in offered] == [[HOSTILE]]
    assert set(shell.started()) == {"list -t 1 -k fence.key"}
    assert not (shell.folder / "hit").exists()


def test_the_name_of_an_interface_is_never_run(shell: Shell) -> None:
    name = "a;`id>hit`"
    add_interface(shell, name)
    offered = shell.complete("vmfence host setup --interface a")
    if shell.name == "bash":
        assert [shlex.split(word) for word in offered] == [[name]]
    assert not (shell.folder / "hit").exists()
