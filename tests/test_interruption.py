"""Ctrl-C: at once outside of an iteration, after it inside, and at once when pressed twice."""

import os
import signal
import threading

import pytest

from adjoint.run.interruption import Interruption


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_outside_of_the_steps_it_is_an_interrupt_at_once():
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        press_ctrl_c()
    assert interruption.requested


def test_between_steps_it_waits_until_the_current_one_has_been_dealt_with(capsys):
    seen = []

    def steps():
        for k in range(5):
            if k == 2:
                press_ctrl_c()
            yield k

    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        seen.extend(interruption.between(steps()))
    assert seen == [0, 1, 2]
    assert "finishing this iteration" in capsys.readouterr().err


def test_pressed_twice_it_stops_at_once():
    seen = []

    def steps():
        yield 0
        press_ctrl_c()
        press_ctrl_c()
        yield 1

    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        seen.extend(interruption.between(steps()))
    assert seen == [0]


def test_sigterm_is_the_same(capsys):
    def steps():
        os.kill(os.getpid(), signal.SIGTERM)
        yield 0

    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        list(interruption.between(steps()))
    assert "finishing this iteration" in capsys.readouterr().err


def test_a_step_whose_own_interruption_was_answered_is_not_whole():
    seen = []

    def steps():
        for k in range(3):
            with Interruption() as inner, inner.deferred():
                if k == 1:
                    press_ctrl_c()
            yield k

    with Interruption() as outer, pytest.raises(KeyboardInterrupt):
        seen.extend(outer.between(steps()))
    assert seen == [0]
    assert outer.requested


def test_an_inner_interruption_that_saw_nothing_tells_nothing():
    with Interruption() as outer:
        with Interruption(), pytest.raises(ZeroDivisionError):
            raise ZeroDivisionError
        assert not outer.requested


def test_after_the_steps_it_is_immediate_again():
    with Interruption() as interruption:
        assert list(interruption.between(range(3))) == [0, 1, 2]
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()


def test_the_previous_handler_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_it_only_yields_the_steps():
    seen = []

    def work():
        with Interruption() as interruption:
            seen.extend(interruption.between(range(3)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0, 1, 2]
