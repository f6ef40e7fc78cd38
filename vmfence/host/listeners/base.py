"""What a listener is: it turns bytes into a verified request and a stream, and hands both to the reception."""

from __future__ import annotations

from typing import Protocol

from vmfence.host.security import Security


class Listener(Protocol):
    """One place where requests arrive."""

    def where(self) -> str:
        """Return what it listens to, for the log."""

    async def open(self) -> None:
        """Begin to listen.  Raises ListenError."""

    async def close(self) -> None:
        """Stop listening; requests under way go on."""

    def trouble(self) -> str:
        """Return why no request can arrive at the moment, or nothing."""

    def unheard(self) -> dict[str, str]:
        """Return those who are not heard although it is open, each with the reason."""

    def secure(self, security: Security, has_groups: bool) -> None:
        """Demand *security* from the next request on."""

    def links_changed(self) -> None:
        """Look at the network interfaces again: one has come, gone, or changed."""
