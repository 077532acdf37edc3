"""`DnsServer`: a resolver on UDP and TCP."""

from __future__ import annotations

import atexit
import ipaddress
import os
import threading
import weakref
from types import TracebackType

from fastpath._engine import DnsListener
from fastpath.dns.resolver import Resolver
from fastpath.namespaces import Namespace, namespace_path
from fastpath.registry.types import check_int, check_seconds, check_str

_running: weakref.WeakSet[DnsServer] = weakref.WeakSet()


class DnsServer:
    """Answers DNS on UDP and TCP, on two threads of its own that do not need the interpreter.

    Parameters
    ----------
    resolver : Resolver
        What answers. A name asked for the first time after a change of its service is made ready in Python;
        until the next change its answers come from C++ alone.
    host : str
        Address to listen on, "localhost", or a wildcard ("0.0.0.0", "::").
    port : int
        0 picks one that is free for both UDP and TCP; see `port`.
    netns : int, str or os.PathLike, optional
        Open the sockets in this network namespace: that of a process id, a name under ``/run/netns``, or a
        path. The caller stays in its own; the sockets work on after the name is gone.
    max_connections : int
        Most TCP connections at a time; one more closes the one that is idle longest.
    idle_s : float
        A TCP connection without a complete query for so long is closed.

    Raises
    ------
    OSError
        From `start`: the address is taken, not of this machine, or not allowed, or the namespace cannot be
        entered.

    Notes
    -----
    ``with DnsServer(resolver) as server: ...`` starts and stops it; so do `start` and `stop`. TCP follows
    RFC 7766: many queries on one connection, answered in order. In a child of ``os.fork`` it is stopped.
    """

    def __init__(
        self,
        resolver: Resolver,
        host: str = "127.0.0.1",
        port: int = 8600,
        netns: Namespace | None = None,
        *,
        max_connections: int = 256,
        idle_s: float = 10.0,
    ) -> None:
        if not isinstance(resolver, Resolver):
            raise TypeError(f"resolver must be a Resolver, not {type(resolver).__name__}: {resolver!r}")
        self._resolver = resolver
        self._host = _numeric(check_str(host, "host"))
        self._port = check_int(port, "port", 0, 65535)
        self._netns = namespace_path(netns)
        self._max_connections = check_int(max_connections, "max_connections", 1, 65536)
        self._idle_s = check_seconds(idle_s, "idle_s")
        if self._idle_s > 86400:
            raise ValueError(f"idle_s must be at most a day (86400), not {idle_s!r}")
        self._lock = threading.Lock()
        self._listener: DnsListener | None = None
        self._stats: dict[str, int] = {}

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._host

    @property
    def port(self) -> int:
        """The port: the one in use while it runs, otherwise the one asked for."""
        listener = self._listener
        return self._port if listener is None else listener.port

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the last start.

        "queries" (of them "udp_queries" and "tcp_queries"), answers by rcode ("noerror", "nxdomain", ...),
        "ignored" (no query at all), "truncated", "misses" (made in Python), "udp_dropped", "tcp_connections",
        "tcp_closed_for_room".
        """
        listener = self._listener
        return dict(self._stats) if listener is None else listener.stats()

    @property
    def running(self) -> bool:
        """Whether it is started."""
        return self._listener is not None

    def start(self) -> None:
        """Open the sockets and answer; does nothing if it runs already."""
        with self._lock:
            if self._listener is None:
                try:
                    self._listener = DnsListener(
                        self._resolver._responder,
                        self._host,
                        self._port,
                        self._netns,
                        self._max_connections,
                        self._idle_s,
                    )
                except OSError as error:
                    inside = f" in {self._netns}" if self._netns else ""
                    where = f"{self._host}, port {self._port}{inside}"
                    raise OSError(error.errno, f"{error.strerror} ({where})") from None
                _running.add(self)

    def stop(self) -> None:
        """Close the sockets and end the threads; does nothing if it does not run. It may be started again.

        It waits for an answer that is being made, which reads the registry: a listener of
        `Registry.subscribe` must not call it.
        """
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.stop()
                self._stats = listener.stats()
                _running.discard(self)

    def __enter__(self) -> DnsServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = f"[{self._host}]" if ":" in self._host else self._host
        return f"<DnsServer {where}:{self.port}, {'running' if self.running else 'stopped'}>"


def _numeric(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError(f"host must be an IPv4 or IPv6 address or 'localhost', not {host!r}") from None


def _abandon_all() -> None:
    for server in list(_running):
        listener, server._listener = server._listener, None
        server._lock = threading.Lock()
        server._stats = {}
        if listener is not None:
            listener.abandon()
    _running.clear()


os.register_at_fork(after_in_child=_abandon_all)


@atexit.register
def _stop_all() -> None:
    # A thread that asks Python for an image while the interpreter goes down would hang or crash.
    for server in list(_running):
        server.stop()
