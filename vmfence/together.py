"""Calls at the same time, each in a thread that keeps nobody waiting: who does not come back is left behind.

The threads of an executor would be waited for at the end of the program, whatever hangs in them.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Callable, Generic, TypeVar

from vmfence.errors import DeadlineExceeded, VmfenceError

Value = TypeVar("Value")


def call(calls: Mapping[str, Callable[[], Any]], deadline_s: float) -> dict[str, Any]:
    """Begin all *calls* at once; return by name what each returned, or the VmfenceError it raised.

    What is not there *deadline_s* seconds from now is a DeadlineExceeded.  Other exceptions are defects: raised again.
    """
    deadline = time.monotonic() + deadline_s
    begun = {name: _begin(name, each) for name, each in calls.items()}
    return {name: _result(name, future, deadline, deadline_s) for name, future in begun.items()}


class Once(Generic[Value]):
    """A function of one word that is called once for each, although several ask, also at the same time."""

    def __init__(self, function: Callable[[str], Value]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._found: dict[str, Value | VmfenceError] = {}

    def __call__(self, word: str) -> Value:
        """Return what the function returns for *word*.  Raises the VmfenceError that it raised."""
        with self._lock:
            if word not in self._found:
                try:
                    self._found[word] = self._function(word)
                except VmfenceError as error:
                    self._found[word] = error
            found = self._found[word]
        if isinstance(found, VmfenceError):
            raise found
        return found


def _begin(name: str, each: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    context = contextvars.copy_context()  # the limit of outside programs holds in the thread as well

    def work() -> None:
        try:
            future.set_result(context.run(each))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            future.set_exception(error)

    threading.Thread(target=work, name=f"call {name}", daemon=True).start()
    return future


def _result(name: str, future: Future[Any], deadline: float, deadline_s: float) -> Any:
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except VmfenceError as error:
        return error
    except concurrent.futures.TimeoutError:
        return DeadlineExceeded(f"reading {name} took too long", f"no result within {deadline_s:.2g} s")
