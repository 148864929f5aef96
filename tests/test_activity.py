"""Signs of life: a spinner on a terminal, a line at doubled silences elsewhere, or nothing.

It is nothing when nobody asked.
"""

import io
import threading
import time

import pytest

from adjoint.run.activity import Activity


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tellers():
    return [thread for thread in threading.enumerate() if thread.name == "activity"]


def wait_for(condition):
    """Until it holds; the test's own limit ends a wait in vain."""
    while not condition():
        time.sleep(0.005)


def test_a_long_phase_is_told_again_and_again_in_a_log():
    stream = io.StringIO()
    with Activity(stream, first_silence=0.02) as activity:
        activity.begin("computing the sensitivities")
        wait_for(lambda: stream.getvalue().count("still computing the sensitivities, 0 s") == 3)
        activity.begin("drawing")
        wait_for(lambda: "still drawing, 0 s" in stream.getvalue())


def test_the_silence_doubles():
    stream, started = io.StringIO(), time.monotonic()
    with Activity(stream, first_silence=0.1) as activity:
        activity.begin("waiting")
        wait_for(lambda: stream.getvalue().count("still") == 3)
    # Lines after 0.1, 0.2 and 0.4 s.
    assert time.monotonic() - started >= 0.4


def test_a_short_phase_says_nothing_in_a_log():
    stream = io.StringIO()
    with Activity(stream) as activity:
        activity.begin("drawing")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("end", ["pause", "exit"])
def test_nothing_is_said_and_no_thread_runs_afterwards(end):
    stream = io.StringIO()
    with Activity(stream, first_silence=0.01) as activity:
        activity.begin("drawing")
        wait_for(lambda: stream.getvalue())
        if end == "pause":
            activity.pause()
            assert not tellers()
    assert not tellers()
    said = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == said


def test_outside_of_its_context_nothing_is_shown():
    stream = Terminal()
    Activity(stream, first_silence=0.0).begin("drawing")
    assert not tellers()
    assert stream.getvalue() == ""


def test_a_terminal_shows_the_phase_and_its_seconds(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Activity(stream) as activity:
        activity.begin("drawing the pictures")
    assert "drawing the pictures, 0 s" in stream.getvalue()


def test_a_failure_ends_it():
    def fail():
        with Activity(io.StringIO()) as activity:
            activity.begin("drawing")
            assert tellers()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not tellers()
