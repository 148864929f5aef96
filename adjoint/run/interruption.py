"""Ctrl-C and SIGTERM without loss: an iteration is finished, a second signal stops at once.

An exception raised in the middle of a compiled program surfaces as that program's error, or not at
all when it falls into a host callback. So inside an iteration the signal only leaves a mark, which
is read between two iterations.
"""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Self, TypeVar

T = TypeVar("T")


class Interruption:
    """The answer to Ctrl-C (SIGINT), SIGTERM or other signals as long as ``with`` lasts.

    In `between` it waits for the end of the current step, in `deferred` for whoever reads
    `requested`; elsewhere, and the second time, it is a `KeyboardInterrupt` at once. Outside the
    main thread, where Python has no signals, nothing changes.

    One inside another, such as that of `minimize` in a step of `between`, answers in its place and
    tells it at its end.

    Parameters
    ----------
    signals
        Those that are answered.

    Attributes
    ----------
    requested
        Whether one of them has come.

    Examples
    --------
    >>> with Interruption() as interruption:
    ...     total = sum(interruption.between(range(4)))
    >>> total, interruption.requested
    (6, False)
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)):
        self.requested = False
        self._cut_short = False
        self._waiting = False
        self._signals = signals if threading.current_thread() is threading.main_thread() else ()

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._answer) for number in self._signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if self.requested and isinstance(outer, Interruption):
                outer.requested = outer._cut_short = True

    def between(self, steps: Iterable[T]) -> Iterator[T]:
        """Yield the steps; after a Ctrl-C, raise `KeyboardInterrupt` once this step is dealt with.

        A step in which an `Interruption` of its own was answered is not whole, and not yielded.

        Parameters
        ----------
        steps
            Any iterable, such as the iterations of an optimization.
        """
        with self.deferred():
            for step in steps:
                if self._cut_short:
                    raise KeyboardInterrupt
                yield step
                if self.requested:
                    raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """For as long as this ``with`` block lasts, the first signal only sets `requested`."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def _answer(self, _signal: int, _frame: FrameType | None) -> None:
        first = not self.requested
        self.requested = True
        if first and self._waiting:
            print(
                "\ninterrupted: finishing this iteration, then writing what is there (Ctrl-C again "
                "stops at once)",
                file=sys.stderr,
                flush=True,
            )
            return
        raise KeyboardInterrupt
