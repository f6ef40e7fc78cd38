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

    *is_proven*: the host itself had proven the key before, so keys are alike and something else is not.
    """

    def __init__(self, what: str, why: str = "", remedy: str = "", *, is_proven: bool = False) -> None:
        super().__init__(what, why, remedy)
        self.is_proven = is_proven
