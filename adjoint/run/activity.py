"""Signs of life of a phase without iterations: a spinner on a terminal, else a line at times."""

import threading
import time
from collections.abc import Callable
from typing import Self, TextIO

# A log hears of a phase after this many seconds of silence, and again each time the silence has
# doubled: a phase of an hour leaves nine lines. Ten seconds are the limit of a person's attention
# to a silent program (Nielsen, Usability Engineering, 1993, section 5.5).
FIRST_SILENCE = 10.0  # seconds


class Activity:
    """What goes on where no iteration is reported, shown for as long as it lasts.

    A context manager: outside of it nothing is shown, and no thread runs.

    Parameters
    ----------
    stream
        A terminal gets a spinner with the seconds so far; a file or a pipe gets a line after 10 s,
        20 s, 40 s, ...
    first_silence
        Seconds until the first line.

    Examples
    --------
    >>> import sys
    >>> with Activity(sys.stdout) as activity:
    ...     activity.begin("drawing the pictures")  # done in less than ten seconds: nothing to say
    ...     pictures = ["density.png"]
    """

    def __init__(self, stream: TextIO, first_silence: float = FIRST_SILENCE):
        self._stream = stream
        self._first_silence = first_silence
        self._entered = False
        self._end: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()
        self._entered = False

    def begin(self, phase: str) -> None:
        """Show this phase from now on, in place of the one before.

        Parameters
        ----------
        phase
            What is done, such as "drawing the pictures".
        """
        self.pause()
        if self._entered:
            self._end = self._spin(phase) if self._stream.isatty() else self._tell(phase)

    def pause(self) -> None:
        """Show nothing until the next `begin`, so that others can write to the stream."""
        if self._end is not None:
            self._end()
            self._end = None

    def _spin(self, phase: str) -> Callable[[], None]:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        started = time.monotonic()
        spinner = Spinner("dots")

        def shown() -> Spinner:
            spinner.update(text=f"{phase}, {time.monotonic() - started:.0f} s")
            return spinner

        live = Live(
            console=Console(file=self._stream),
            get_renderable=shown,
            refresh_per_second=4,
            transient=True,
        )
        live.start()
        return live.stop

    def _tell(self, phase: str) -> Callable[[], None]:
        over = threading.Event()
        started = time.monotonic()

        def tell() -> None:
            silence = self._first_silence
            while not over.wait(silence):
                seconds = time.monotonic() - started
                print(f"still {phase}, {seconds:.0f} s", file=self._stream, flush=True)
                silence = max(seconds, self._first_silence)

        # A daemon, so that a process that ends in the middle of a phase does not wait for it.
        teller = threading.Thread(target=tell, name="activity", daemon=True)
        teller.start()

        def end() -> None:
            over.set()
            teller.join()

        return end
