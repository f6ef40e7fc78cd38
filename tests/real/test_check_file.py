"""``cluster check`` of files, with the real tools of Pacemaker and pcs; no cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.cluster import missing
from lab.ours import CommandLine
from lab.process import Result, clean_environment
from vmfence.cluster.check.checks import CHECKS

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}")
MAP = "pcmk_host_map=n1:vm-1;n2:vm-2"
GOOD = ("fence_xvm", MAP, "pcmk_delay_base=n1:10s", "op", "monitor", "interval=60s", "timeout=45s")


def check(vmfence: CommandLine, *words: str | Path) -> Result:
    done = vmfence.run("cluster", "check", *map(str, words))
    assert "Traceback" not in done.stderr
    return done


def made(folder: Path, *commands: tuple[str, ...]) -> Path:
    """Return a CIB of two nodes that pcs has worked on."""
    file = folder / "cib.xml"
    nodes = "".join(f'<node id="{number}" uname="n{number}"/>' for number in (1, 2))
    file.write_text(
        '<cib crm_feature_set="3.16.0" validate-with="pacemaker-3.9" epoch="1" num_updates="0" admin_epoch="0">'
        f"<configuration><crm_config/><nodes>{nodes}</nodes><resources/><constraints/></configuration><status/></cib>"
    )
    for command in commands:
        argv = ["pcs", "-f", str(file), *command]
        subprocess.run(argv, check=True, capture_output=True, env=clean_environment(), timeout=60)
    return file


def codes(vmfence: CommandLine, file: Path) -> dict[str, Any]:
    found = json.loads(check(vmfence, "--json", "--cib", file).stdout)["findings"]
    return {one["code"]: one for one in found}


def test_a_good_file_passes_and_says_what_was_left_out(vmfence: CommandLine, tmp_path: Path) -> None:
    file = made(tmp_path, ("stonith", "create", "fence", *GOOD))
    before = file.read_bytes()
    done = check(vmfence, "--cib", file, "--strict")
    assert (done.exit, done.stderr) == (0, "")
    assert "0 errors, 0 warnings" in done.stdout
    assert "a file is judged, not the running cluster" in done.stdout.splitlines()[-1]
    assert "\x1b" not in done.stdout
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("code", "command"),
    [
        ("cluster-fencing-disabled", ("property", "set", "stonith-enabled=false")),
        ("cluster-static-port", ("stonith", "update", "fence", "port=vm-1")),
        ("cluster-guest-twice", ("stonith", "update", "fence", "pcmk_host_map=n1:vm-1;n2:vm-1")),
        ("cluster-no-device", ("stonith", "disable", "fence")),
        ("cluster-timeouts", ("stonith", "update", "fence", "pcmk_reboot_timeout=5s")),
    ],
)
def test_mistakes_in_a_file(vmfence: CommandLine, tmp_path: Path, code: str, command: tuple[str, ...]) -> None:
    file = made(tmp_path, ("stonith", "create", "fence", *GOOD), command)
    assert code in codes(vmfence, file)
    assert check(vmfence, "--cib", file, "--quiet").exit == 1
    assert code not in check(vmfence, "--cib", file, "--skip", code).stdout
    assert check(vmfence, "--cib", file, "--skip", code, "--only", code).exit == 2


def test_remedies_can_be_pasted(vmfence: CommandLine, tmp_path: Path) -> None:
    """A host map has semicolons: quoted, the command does what it says."""
    file = made(
        tmp_path, ("stonith", "create", "fence", *GOOD), ("stonith", "update", "fence", "pcmk_host_check=maybe")
    )
    remedy = codes(vmfence, file)["cluster-host-check"]["remedy"]
    assert remedy.startswith("pcs stonith update fence ")
    pasted = f'pcs() {{ command pcs -f {file} "$@"; }}; {remedy}'
    subprocess.run(["bash", "-c", pasted], check=True, capture_output=True, env=clean_environment(), timeout=60)
    assert "cluster-host-check" not in codes(vmfence, file)


def test_a_file_that_is_none(vmfence: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("<cib>")
    for file in (tmp_path / "none", tmp_path / "broken", tmp_path):
        done = check(vmfence, "--cib", file)
        assert (done.exit, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")


def test_a_tool_that_hangs_is_a_finding_of_the_report_and_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "cibadmin"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    program.chmod(0o755)
    env = clean_environment()
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    argv = [str(Path(sys.executable).parent / "vmfence"), "cluster", "check", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=30)
    [finding] = [one for one in json.loads(done.stdout)["findings"] if one["severity"] == "error"]
    assert (done.returncode, done.stderr, finding["code"]) == (4, "", "cluster-cib-unread")
    assert "cibadmin did not end within" in finding["message"] and "cibadmin --query" in finding["remedy"]
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_explanations(vmfence: CommandLine) -> None:
    listed = check(vmfence, "--explain", "all").stdout.splitlines()
    assert listed == [f"{one.code}: {one.title}" for one in CHECKS]
    told = check(vmfence, "--explain", "cluster-static-port").stdout
    assert "pcmk_host_map" in told and max(map(len, told.splitlines())) <= 80
    for words in (("--explain", "cluster-static-prt"), ("--only", "x"), ("--skip", "y")):
        done = check(vmfence, *words)
        assert (done.exit, done.stdout) == (2, "")
        assert "there is no check" in done.stderr
