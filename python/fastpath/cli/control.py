"""The control socket of a running `serve`: JSON, a line each way, over a Unix socket.

A request is ``{"call": name, ...arguments}``; the answer ``{"ok": value}`` or ``{"error": text}``. Who may
open the socket's file (mode 0600) may call: there is no other authentication.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fastpath.errors import Error

MAX_REQUEST = 1 << 20


def default_path() -> Path:
    """Where `serve` listens unless told: the user's runtime directory, else the temporary one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else "")
    return Path(runtime) / "fastpath.sock" if runtime else Path(f"/tmp/fastpath-{os.geteuid()}.sock")  # noqa: S108


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        # A client may go at any time.
        with contextlib.suppress(ConnectionError):
            self._answer_lines()

    def _answer_lines(self) -> None:
        while line := self.rfile.readline(MAX_REQUEST):
            whole = line.endswith(b"\n") or len(line) < MAX_REQUEST
            try:
                if not whole:
                    raise ValueError(f"a request has at most {MAX_REQUEST} bytes")
                request = json.loads(line)
                if not isinstance(request, dict) or not isinstance(request.get("call"), str):
                    raise ValueError('expected an object like {"call": "services"}')
                name = request.pop("call")
                if name not in self.server.calls:
                    raise ValueError(f"unknown call {name!r}; known: {', '.join(sorted(self.server.calls))}")
                call = self.server.calls[name]
                inspect.signature(call).bind(**request)
                answer = {"ok": call(**request)}
            except (Error, ValueError, TypeError, KeyError, RecursionError) as error:
                text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
                answer = {"error": f"{text}", "type": type(error).__name__}
            self.wfile.write(json.dumps(answer).encode() + b"\n")
            if not whole:
                return


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    # One client more than wait here is refused at once, whatever its timeout.
    request_queue_size = 1024
    calls: Mapping[str, Callable[..., Any]]


class ControlServer:
    """Serves `calls` on a Unix socket, in threads of its own, between `start` and `stop`.

    Errors
    ------
    ValueError
        Another process is serving on that path.
    OSError
        The socket cannot be made there.
    """

    def __init__(self, path: str | os.PathLike[str], calls: Mapping[str, Callable[..., Any]]) -> None:
        self.path = Path(path)
        if self.path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.path))
                except ConnectionRefusedError:
                    self.path.unlink()
                else:
                    raise ValueError(
                        f"another fastpath is serving on {self.path}; stop it or use --control PATH"
                    )
        before = os.umask(0o177)
        try:
            self._server = _Server(str(self.path), _Handler)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from None
        finally:
            os.umask(before)
        self._server.calls = calls
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="fastpath-control", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and remove the socket's file."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> ControlServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ControlClient:
    """Calls a running `serve`; keeps one connection open."""

    def __init__(self, path: str | os.PathLike[str], *, timeout_s: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            self._socket.close()
            raise OSError(f"no fastpath is serving on {path}; start one with: fastpath serve") from None
        self._file = self._socket.makefile("rb")

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Call `name`; raises :class:`fastpath.Error` with the server's text when it refuses."""
        self._socket.sendall(json.dumps({"call": name, **arguments}).encode() + b"\n")
        line = self._file.readline()
        if not line:
            raise Error("fastpath serve closed the connection")
        answer = json.loads(line)
        if "error" in answer:
            raise Error(answer["error"])
        return answer["ok"]

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
