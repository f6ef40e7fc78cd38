"""What the interoperability tests share: both sides in both kinds, daemons kept for the length of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from interop.sides import (
    FAMILIES,
    REFERENCE,
    TRANSPORTS,
    Client,
    Daemons,
    Endpoint,
    OurDaemons,
    ReferenceDaemons,
    our_programs,
)
from lab.net import Bridge
from lab.ours import CommandLine


@pytest.fixture(scope="module")
def our_daemons(bridge: Bridge, vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurDaemons]:
    """Our daemons."""
    with ExitStack() as stack:
        yield OurDaemons(bridge, tmp_path_factory.mktemp("ours"), stack, vmfence)


@pytest.fixture(scope="module")
def reference_daemons(bridge: Bridge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceDaemons]:
    """Real fence_virtd."""
    with ExitStack() as stack:
        yield ReferenceDaemons(bridge, tmp_path_factory.mktemp("reference"), stack)


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> dict[str, str]:
    """Our agent under the names of the reference."""
    return our_programs(tmp_path_factory.mktemp("names"), vmfence)


@pytest.fixture
def reference_client(bridge: Bridge) -> Client:
    """Real fence_xvm and fence_virt on the first guest."""
    return Client(REFERENCE, bridge.guests[0])


@pytest.fixture
def our_client(bridge: Bridge, names: dict[str, str]) -> Client:
    """Our agent as fence_xvm and fence_virt on the first guest."""
    return Client(names, bridge.guests[0])


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport."""
    return str(request.param)


@pytest.fixture(params=[f"{transport}-{family}" for transport in TRANSPORTS for family in FAMILIES])
def endpoint(request: pytest.FixtureRequest, daemons: Daemons) -> Endpoint:
    """A daemon with the defaults, at each transport and family; the test module says which *daemons*."""
    return daemons.at(*request.param.split("-"))
