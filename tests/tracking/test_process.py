import os
import subprocess
import sys

from gradgrad.tracking.process import HOST, PID, STARTED, is_alive, this_process


def test_this_process_lives():
    assert is_alive(this_process()) is True


def test_a_later_process_of_the_same_number_is_another():
    assert is_alive({**this_process(), STARTED: "1.5"}) is False


def test_a_process_that_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    tags = {**this_process(), PID: str(process.pid)}
    assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(tags) is False  # also while nobody has asked how it ended
    process.wait()
    assert is_alive(tags) is False


def test_another_machine_cannot_be_asked():
    assert is_alive({**this_process(), HOST: "elsewhere"}) is None
    assert is_alive({}) is None
