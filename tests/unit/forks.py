"""What a table is to the child of a fork, beside threads that use it."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

# AddressSanitizer before LLVM 18 does not lock its allocator for a fork: the child would wait for a thread
# that was allocating without the GIL, or ended, and is gone. Under it, forks come while threads are between
# two calls.
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")
_BESIDE: list[threading.Barrier] = []  # where the threads of `threads` meet who forks, if they have to


def in_child(work: Callable[[], object]) -> str:
    """Return what `work` says of itself in the child of a fork; "" if it does not end."""
    reader, writer = os.pipe()
    for barrier in _BESIDE:
        barrier.wait()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(100)  # slow machines and sanitizers included; less than the test may take
        try:
            said = str(work())
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    for barrier in _BESIDE:
        barrier.wait()
    os.close(writer)
    with os.fdopen(reader) as pipe:
        if not select.select([pipe], [], [], 120)[0]:
            os.kill(child, signal.SIGKILL)  # not even as far as its alarm
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@contextmanager
def threads(*loops: Callable[[int], object]) -> Iterator[None]:
    """Beside these, each called again and again with a number."""
    stop = threading.Event()
    barrier = threading.Barrier(len(loops) + 1, timeout=120)

    def run(loop: Callable[[int], object]) -> None:
        number = 0
        with suppress(threading.BrokenBarrierError):
            while not stop.is_set():
                number += 1
                loop(number)
                if SANITIZED and barrier.n_waiting:
                    barrier.wait()
                    barrier.wait()

    running = [threading.Thread(target=run, args=(loop,)) for loop in loops]
    for thread in running:
        thread.start()
    if SANITIZED:
        _BESIDE.append(barrier)
    try:
        yield
    finally:
        stop.set()
        barrier.abort()
        if SANITIZED:
            _BESIDE.remove(barrier)
        for thread in running:
            thread.join()
