"""How asking a host can fail, told apart as far as the wire tells.

Light module (loaded by the fence agent: standard library only).
"""

from __future__ import annotations

from vmfence.errors import AuthenticationError, DeadlineExceeded


class NoAnswer(DeadlineExceeded):
    """Nobody answered in time."""


class HostNotProven(AuthenticationError):
    """Somebody answered who could not prove the key."""


class NotAccepted(AuthenticationError):
    """The host closed the connection without a result: it did not accept our key, hash or auth.

    *at_challenge*: before both challenges were held, and so not while the result was waited for.
    """

    def __init__(self, what: str, why: str = "", remedy: str = "", *, at_challenge: bool = False) -> None:
        super().__init__(what, why, remedy)
        self.at_challenge = at_challenge
