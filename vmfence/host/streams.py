"""Streams that peers may not read from, or never end: nothing here waits without end."""

from __future__ import annotations

import asyncio
import contextlib

WRITE_S = 10.0


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close the connection once what was written has left; a peer that does not read is not waited for without end."""
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), WRITE_S)
    except (asyncio.TimeoutError, OSError):
        writer.transport.abort()


async def read_to_end(reader: asyncio.StreamReader) -> None:
    """Return when the peer has closed; what it still sends is dropped."""
    with contextlib.suppress(OSError):
        while await reader.read(4096):
            pass


async def send(data: bytes, writer: asyncio.StreamWriter) -> str:
    """Write *data*; return what went wrong, or nothing."""
    try:
        writer.write(data)
        await asyncio.wait_for(writer.drain(), WRITE_S)
    except asyncio.TimeoutError:
        writer.transport.abort()
        return "the client did not read the answer"
    except OSError as error:
        return f"the answer was lost: {error.strerror or error}"
    return ""
