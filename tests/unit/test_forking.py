"""Forks beside writers: no child finds a lock that nobody will ever release."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run(program: str) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)


def test_a_fork_waits_for_writers() -> None:
    run("""
        import os, signal, threading, time
        from fastpath import forking

        class Table:
            __hash__ = None

            def __init__(self):
                self.lock, self.whole = threading.RLock(), True
                forking.protect(self)

            def _lock_for_fork(self):
                self.lock.acquire()

            def _unlock_after_fork(self):
                self.lock.release()

            _unlock_in_child = _unlock_after_fork

            def write(self):
                with self.lock:
                    self.whole = False
                    Table()  # another one, within an edit
                    time.sleep(0.001)
                    self.whole = True

        tables, stop = [Table() for _ in range(3)], threading.Event()

        def work(table):
            while not stop.is_set():
                table.write()

        threads = [threading.Thread(target=work, args=(table,)) for table in tables]
        for thread in threads:
            thread.start()
        statuses = []

        def fork():
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    signal.alarm(5)
                    whole = all(table.whole for table in tables)
                    for table in tables:
                        table.write()
                    forking.protect(Table())
                    os._exit(0 if whole else 1)
                statuses.append(os.waitpid(pid, 0)[1])

        forkers = [threading.Thread(target=fork) for _ in range(3)]
        for thread in forkers:
            thread.start()
        for thread in forkers:
            thread.join()
        stop.set()
        for thread in threads:
            thread.join()
        assert statuses == [0] * 60, statuses
    """)


def test_what_is_gone_is_not_locked() -> None:
    run("""
        import os
        from fastpath import forking

        class Table:
            def _lock_for_fork(self):
                os._exit(1)

        table = Table()
        forking.protect(table)
        del table
        if (pid := os.fork()) == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """)


def test_a_signal_while_a_fork_waits() -> None:
    """Its handler's error is reported, the fork happens with everything locked, and so do later ones."""
    run("""
        import os, signal, sys, threading, time
        from fastpath import Balancer

        balancer, began = Balancer(["a", "b"]), threading.Event()

        def edit():
            with balancer._lock:
                began.set()
                time.sleep(1)

        def late(*_):
            raise TimeoutError("late")

        reported = []
        sys.unraisablehook = lambda args: reported.append(args.exc_type)
        thread = threading.Thread(target=edit)
        thread.start()
        began.wait()
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(5)
                balancer.set_weight("a", 2)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        assert reported == [TimeoutError]
        thread.join()
    """)


def test_locks_are_taken_in_the_order_in_which_writers_nest_them() -> None:
    """A writer makes an outer object while a fork waits for an inner one, and locks it first."""
    run("""
        import os, signal, threading, time
        from fastpath import forking

        class Table:
            def __init__(self, level):
                self.lock = threading.RLock()
                forking.protect(self, level)

            def _lock_for_fork(self):
                self.lock.acquire()

            def _unlock_after_fork(self):
                self.lock.release()

            _unlock_in_child = _unlock_after_fork

        inner, slow, stop = Table(forking.TABLE), Table(forking.TABLE), threading.Event()

        def nest():
            while not stop.is_set():
                time.sleep(0.01)
                outer = Table(forking.LISTENED)
                with outer.lock:
                    time.sleep(0.001)
                    with inner.lock:
                        pass

        def hold():
            while not stop.is_set():
                time.sleep(0.001)
                with slow.lock:
                    time.sleep(0.002)

        threads = [threading.Thread(target=work) for work in (nest, nest, hold)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                signal.alarm(5)
                with inner.lock, slow.lock:
                    os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
    """)


def test_a_signal_while_a_fork_waits_for_another_one() -> None:
    """Its handler raises, or forks: the fork waits on, has all locks and gives them back."""
    run("""
        import os, signal, sys, threading, time
        from fastpath import forking

        class Slow:
            def __init__(self):
                self.lock = threading.RLock()
                forking.protect(self, forking.EDITED)

            def _lock_for_fork(self):
                return self.lock.acquire(timeout=forking.PATIENCE_S)

            def _unlock_after_fork(self):
                self.lock.release()

            _unlock_in_child = _unlock_after_fork

        def fork(work=lambda: None):
            pid = os.fork()
            if pid == 0:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(5)
                work()
                os._exit(0)
            return os.waitpid(pid, 0)[1]

        def stop(*_):
            raise InterruptedError

        def fork_once_more(*_):
            statuses.append(fork())

        def write():
            with slow.lock:
                writing.set()
                time.sleep(0.25)

        def use():
            if not slow.lock.acquire(timeout=1):
                os._exit(1)

        sys.unraisablehook = lambda raised: reported.append(raised.exc_type)
        slow, statuses, reported = Slow(), [], []
        # In the midst of 50 ms in which another one has the turn, this one has it, and this one sleeps.
        for after in [0.02, 0.065, 0.115]:
            for handler in (stop, fork_once_more):
                signal.signal(signal.SIGALRM, handler)
                writing = threading.Event()
                writer = threading.Thread(target=write)
                writer.start()
                writing.wait()
                other = threading.Thread(target=lambda: statuses.append(fork(use)))
                other.start()
                time.sleep(0.01)
                signal.setitimer(signal.ITIMER_REAL, after)
                statuses.append(fork(use))
                writer.join()
                other.join()
        assert statuses == [0] * 15, statuses
        assert reported == [InterruptedError] * 3, reported
        assert fork(use) == 0
    """)


def test_a_writer_that_forks_beside_another_fork_and_hooks_of_others() -> None:
    """Hooks that come later than those here run before them: the ones of the standard library take locks."""
    run("""
        import os, threading, time
        from fastpath import Registry
        import concurrent.futures.thread, logging

        def fork():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0

        def listen(_):
            editing.set()
            time.sleep(0.2)  # the other one is at it by now
            fork()

        editing, registry = threading.Event(), Registry()
        registry.subscribe(listen)
        writer = threading.Thread(target=lambda: registry.register("web", "192.0.2.1", 80), daemon=True)
        writer.start()
        editing.wait()
        threading.Timer(20, os._exit, [1]).start()
        fork()
        writer.join()
        os._exit(0)
    """)
