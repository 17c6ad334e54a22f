"""Exceptions without what their tracebacks hold.

A traceback keeps every frame's local variables: records, responses, the token. Airflow 3.0 logs them with each failed
task, newer versions do so with ``DEV`` set, and so do other tools. An exception also keeps the one that it replaced,
and a database driver's text may quote a row. So exceptions lose both where they leave a thread, a hook or the operator;
a note says where they were raised.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

__all__ = ["bare", "raise_alone", "raised_at", "without_frames"]

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_NOTE = "Raised at "
_SHOWN = 8  # frames
_ROOTS = ("site-packages", "dist-packages", "payarc_provider")


def raised_at(error: BaseException) -> str:
    """Where it was raised: ``Raised at payarc_provider/sync/relation.py:144 in connection, …``; empty if unknown."""
    for note in getattr(error, "__notes__", ()):  # from where it left a thread
        if note.startswith(_NOTE):
            return str(note)
    steps = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    places = [f"{_short(code.co_filename)}:{line} in {code.co_name}" for code, line in steps[: -_SHOWN - 1 : -1]]
    return _NOTE + ", ".join(places) if places else ""


def bare(error: E) -> E:
    """The exception without its traceback and without those that led to it, with a note of where it was raised."""
    if (where := raised_at(error)) and where not in getattr(error, "__notes__", ()):
        error.add_note(where)
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def raise_alone(error: BaseException) -> NoReturn:
    """Raise an exception that does not keep the one that is being handled, as even ``from None`` does."""
    try:
        raise error from None
    finally:
        error.__context__ = None


def without_frames(function: Callable[P, T]) -> Callable[P, T]:
    """Let the function's exceptions leave it `bare`, and without a frame that holds its arguments."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - raised again
            failure = bare(error)
        del args, kwargs
        raise failure

    return call


def _short(filename: str) -> str:
    """The file without the folders of the installation."""
    parts = Path(filename).parts
    for root in _ROOTS:
        if root in parts:
            return "/".join(parts[parts.index(root) + (root != "payarc_provider") :])
    return "/".join(parts[-2:])
