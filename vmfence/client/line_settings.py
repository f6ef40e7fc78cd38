"""What ``115200,8N1`` means: speed, data bits, parity and stop bits of a serial line.

Light module (loaded by the fence agent: standard library only).  Speeds and forms: fence_virt 4.12.1.
"""

from __future__ import annotations

from vmfence.errors import UsageError

SPEEDS = (2400, 9600, 19200, 38400, 57600, 115200)


class LineSettings:
    """*speed* in bits a second, *data_bits* 5 to 8, *parity* N, E or O, *stop_bits* 1 or 2."""

    __slots__ = ("data_bits", "parity", "speed", "stop_bits")

    def __init__(self, speed: int, data_bits: int, parity: str, stop_bits: int) -> None:
        self.speed, self.data_bits, self.parity, self.stop_bits = speed, data_bits, parity, stop_bits


def parse(text: str) -> LineSettings:
    """Return the settings that *text* names; what follows the speed may be left out.  Raises UsageError."""
    speed, _, form = text.replace(" ", "").partition(",")
    form = form.upper() or "8N1"
    known = {str(each): each for each in SPEEDS}
    if speed in known and len(form) == 3 and form[0] in "5678" and form[1] in "NEO" and form[2] in "12":
        return LineSettings(known[speed], int(form[0]), form[1], int(form[2]))
    speeds = ", ".join(known)
    remedy = f"write it as 115200,8N1: speed ({speeds}), data bits 5 to 8, parity N, E or O, stop bits 1 or 2"
    raise UsageError(f"Invalid serial parameters: {text!r}", "", remedy)
