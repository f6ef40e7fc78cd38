"""What all tests share: real parts, made once a worker, and the rule that nothing is skipped where all must be."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cluster, requirements
from lab.cluster import ClusterLab
from lab.hypervisor import Hypervisor
from lab.net import Bridge
from lab.ours import CommandLine

ROOT = Path(__file__).parent.parent
pytest_plugins = ["lab.fault_report"]
# A shell that starts tests in the background has them, and what they start, ignore Ctrl-C: some try just that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn a skip into a failure when VMFENCE_NOTHING_SKIPPED is set: there a missing real part is a defect."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("VMFENCE_NOTHING_SKIPPED"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that at the end no worker is left alone with one of them."""
    items.sort(key=lambda item: (not item.get_closest_marker("long"), not item.get_closest_marker("system")))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of real parts where one of those is missing, naming it."""
    if item.get_closest_marker("system") and (missing := requirements.missing()):
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(scope="session")
def vmfence() -> CommandLine:
    """The installed command line."""
    return CommandLine(Path(sys.executable).parent)


@pytest.fixture(scope="session")
def bridge() -> Iterator[Bridge]:
    """A host and two guests on a bridge.  Tests that take the bridge apart make their own."""
    with Bridge(guests=2) as made:
        yield made


@pytest.fixture(scope="session")
def hypervisor(tmp_path_factory: pytest.TempPathFactory, bridge: Bridge) -> Iterator[Hypervisor]:
    """A libvirtd of our own, in the bridge's host namespace.  Tests that stop it make their own."""
    with Hypervisor(tmp_path_factory.mktemp("libvirt"), bridge.host) as made:
        yield made


@pytest.fixture(scope="session")
def cluster_lab(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[ClusterLab]:
    """A Pacemaker cluster of two nodes and our daemon; its tests take it by way of ``lab``."""
    if missing := cluster.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    with ClusterLab(vmfence, tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def lab(cluster_lab: ClusterLab) -> ClusterLab:
    """The cluster, online and without anything that tests before have made or broken."""
    cluster_lab.reset()
    return cluster_lab
