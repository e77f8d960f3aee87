"""Threads of the compiled search: torch's, no more of them, and a signal ends a call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from aeppt_ext import ops

pytestmark = pytest.mark.skipif(ops.compiled is None, reason="needs the compiled extension")

#: A fresh process, whose threads are all counted. Its substitute is never misled.
PROGRAM = """
import os, sys, threading
import torch
from aeppt_ext import SearchOptions, perturb_search

def search(rows, steps):
    weights = [torch.full((64, 10), 0.01), torch.ones(1, 64)]
    biases = [torch.zeros(64), torch.full((1,), 100.0)]
    probs = torch.arange(10.0).softmax(0).expand(rows, -1)
    options = SearchOptions(direction="member", max_steps=steps)
    return perturb_search(probs, weights, biases, options)

def threads():
    return len(os.listdir("/proc/self/task"))

search(1, 1)
"""


def run_program(text: str, threads: int) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", f"{PROGRAM}torch.set_num_threads({threads})\n{text}"],
        env=os.environ | {"AEPPT_ISA": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return finished.stdout.strip()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_takes_as_many_threads_as_torch_has(threads):
    counted = run_program("before = threads(); search(1000, 5); print(threads() - before)", threads)
    assert int(counted) == threads - 1


def test_few_rows_take_no_second_thread():
    assert int(run_program("before = threads(); search(7, 5); print(threads() - before)", 4)) == 0


def test_one_openmp_library():
    text = """
search(1000, 5)
libraries = {line.split()[-1] for line in open("/proc/self/maps") if "/libgomp" in line}
print(len(libraries))
"""
    assert int(run_program(text, 2)) == 1


def test_calls_at_the_same_time_share_the_threads():
    text = """
before = threads()
callers = [threading.Thread(target=search, args=(20_000, 50)) for _ in range(6)]
for caller in callers: caller.start()
most = before
while any(caller.is_alive() for caller in callers): most = max(most, threads())
print(most - before)
"""
    # The six callers themselves, and the three threads that the first of them took.
    assert 6 <= int(run_program(text, 4)) <= 6 + 3


def test_interrupt_ends_a_call_and_loses_nothing():
    text = """
print("ready", flush=True)
try:
    search(4096, 1_000_000)
except KeyboardInterrupt:
    print("interrupted", search(8, 3).steps.tolist())
"""
    environment = os.environ | {"AEPPT_ISA": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + text], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    stop = threading.Timer(0.5, process.send_signal, [signal.SIGINT])
    stop.start()
    try:
        answer, _ = process.communicate(timeout=30)  # the search itself takes an hour
    finally:
        process.kill()
    assert answer.strip() == f"interrupted {[3] * 8}"
    assert process.returncode == 0


def test_other_python_threads_go_on_during_a_call():
    weights = [torch.full((64, 10), 0.01), torch.ones(1, 64)]
    biases = [torch.zeros(64), torch.full((1,), 100.0)]
    probs = torch.arange(10.0).softmax(0).expand(20_000, -1)
    options = ops.SearchOptions(direction="member", max_steps=50)
    caller = threading.Thread(target=ops.perturb_search, args=(probs, weights, biases, options))
    caller.start()
    assert caller.is_alive(), "the call held Python's lock until it was done"
    caller.join()
