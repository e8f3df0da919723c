"""Ending early: what SIGTERM asks for, and how commands that were ended say so."""

import os
import signal
from pathlib import Path

import pytest
import typer

from interlace.contract.errors import StoppedError
from interlace.jobs.console import reported_errors
from interlace.train.stop import clear, is_asked, stop_on_signals


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_once_and_then_does_what_it_did_before(number: signal.Signals, tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda number, frame: seen.append(number))
    try:
        with stop_on_signals(tmp_path) as came:
            assert not is_asked(tmp_path)
            os.kill(os.getpid(), number)
            assert (is_asked(tmp_path), seen, came) == (True, [], {number})
            os.kill(os.getpid(), number)
            assert seen == [number]
        clear(tmp_path)
        os.kill(os.getpid(), number)
        assert (is_asked(tmp_path), len(seen)) == (False, 2)
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("blocked", [False, True])
def test_sigterm_ends_a_command_with_75_also_where_sigint_is_blocked(blocked: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT} if blocked else set())
    try:
        with pytest.raises(typer.Exit) as caught, reported_errors():
            terminate()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, before)
    assert caught.value.exit_code == 75


def test_a_stopped_run_and_ctrl_c_have_codes_of_their_own() -> None:
    before = signal.getsignal(signal.SIGTERM)
    codes = []
    for error in (StoppedError(3, 10), StoppedError(3, 10, by_hand=True), KeyboardInterrupt()):
        with pytest.raises(typer.Exit) as caught, reported_errors():
            raise error
        codes.append(caught.value.exit_code)
    signal.signal(signal.SIGTERM, before)
    assert codes == [75, 130, 130]
    assert str(StoppedError(3, 10)) == "stopped after step 3 of 10; the same command goes on from there"
