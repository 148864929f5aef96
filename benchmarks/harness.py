"""Timing by turns: every competitor runs once per round, on inputs that no one has seen before.

On a machine that is never quite idle, what is measured side by side can be compared, and what is
measured one after the other cannot. So the rounds go back and forth through the competitors, and a
ratio of two times is the median of the ratios within a round, in which both ran within seconds of
each other.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

Clock = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes
    ----------
    sizes
        Numbers of unknowns, ascending.
    seconds
        Time to spend on the repetitions of one competitor in one case.
    limit
        A call that takes longer than this, in seconds, or is expected to, is skipped.
    repetitions
        The fewest and the most repetitions, whatever the time.
    own_process_from
        From this number of unknowns on, each competitor first runs in a process of its own, which
        measures its peak memory and shields the comparison from one that crashes or never ends.
    """

    sizes: tuple[int, ...]
    seconds: float
    limit: float
    repetitions: tuple[int, int]
    own_process_from: float


@dataclass(frozen=True)
class Competitor:
    """One that takes part in the rounds.

    Attributes
    ----------
    name
        Unique among those that run together.
    draw
        Makes the input of one call, outside the measured time; called anew for every call.
    measures
        What is timed, by name: a function of that input that returns when its work is done.
    """

    name: str
    draw: Callable[[], Any]
    measures: Mapping[str, Callable[[Any], Any]]


@dataclass(frozen=True)
class Spread:
    """A sample in four numbers: its minimum, its quartiles, and how many there were."""

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    count: int

    @classmethod
    def of(cls, sample: Sequence[float]) -> "Spread":
        """The spread of a sample of at least one number.

        Examples
        --------
        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(minimum=1.0, lower_quartile=1.5, median=2.0, upper_quartile=2.5, count=3)
        """
        if len(sample) == 0:
            raise ValueError(
                "Spread.of: got an empty sample, expected at least one number. Measure at least "
                "once."
            )
        lower, median, upper = (float(q) for q in np.quantile(sample, [0.25, 0.5, 0.75]))
        return cls(float(min(sample)), lower, median, upper, len(sample))


Seconds = dict[str, dict[str, list[float]]]


def time_by_turns(
    competitors: Sequence[Competitor], plan: Plan, clock: Clock = time.perf_counter
) -> Seconds:
    """Seconds of each repetition as ``result[competitor][measure]``, a number for each round.

    These are the rounds in which it took part.

    Parameters
    ----------
    competitors
        A round is one turn of each, with all its measures; the next round goes in the opposite
        order. A competitor drops out when it has used ``plan.seconds`` and run as often as it must,
        or as often as it may.
    plan
        Only ``seconds`` and ``repetitions`` count here.
    clock
        Seconds from any origin.
    """
    fewest, most = plan.repetitions
    seconds: Seconds = {
        competitor.name: {name: [] for name in competitor.measures} for competitor in competitors
    }
    spent = dict.fromkeys(seconds, 0.0)
    running = list(competitors)
    round_number = 0
    while running and round_number < most:
        direction = 1 if round_number % 2 == 0 else -1
        with _collected_before():
            for competitor in running[::direction]:
                for name in list(competitor.measures)[::direction]:
                    argument = competitor.draw()
                    start = clock()
                    competitor.measures[name](argument)
                    duration = clock() - start
                    seconds[competitor.name][name].append(duration)
                    spent[competitor.name] += duration
        round_number += 1
        running = [c for c in running if spent[c.name] < plan.seconds or round_number < fewest]
    return seconds


@contextmanager
def _collected_before() -> Iterator[None]:
    """Garbage is collected before, not in the midst of a measured call."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The spread of the ratios within the rounds; both sequences are in the order of the rounds.

    Examples
    --------
    >>> ratio([2.2, 4.0], [2.0, 4.0]).median  # the machine was twice as slow in the second round
    1.05
    """
    if len(numerator) != len(denominator):
        raise ValueError(
            f"ratio: got {len(numerator)} and {len(denominator)} times, expected equally many, "
            "from the same rounds."
        )
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])
