"""The SQLite file behind a durable registry.

Every change is one transaction that carries the instance and the revision together. The file is held
exclusively while it is open: two registries over one file would each believe their own memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from fastpath.errors import StoreError
from fastpath.registry.types import Instance

_APPLICATION_ID = 0x46505247  # "FPRG"
_VERSION = 1
_SCHEMA = (
    "CREATE TABLE instance (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL)",
    "CREATE TABLE registry (revision INTEGER NOT NULL)",
    "INSERT INTO registry VALUES (0)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)


class Store:
    """One open file; the registry's lock serialises its calls."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
            raise TypeError(f"path must be a str or os.PathLike of str, not {type(path).__name__}: {path!r}")
        self.path = os.fspath(path)
        if not self.path or "\0" in self.path:
            raise ValueError(f"path must name a file, not {path!r}")
        with self._translated("open"):
            self._db = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            with self._translated("open"):
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        fresh = application == 0 and version == 0 and tables == 0
        if not fresh and application != _APPLICATION_ID:
            raise StoreError(f"{self.path!r} is a database of another program; expected a fastpath registry")
        if not fresh and version != _VERSION:
            raise StoreError(f"{self.path!r} has format {version}; this version reads format {_VERSION}")
        if not fresh:
            report = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if report != "ok":
                raise StoreError(f"{self.path!r} is damaged: {report}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            for statement in _SCHEMA if fresh else ():
                self._db.execute(statement)

    def load(self) -> tuple[int, list[tuple[Instance, float | None]]]:
        """The revision, and the instances in order of registration, each with its drain's full term."""
        with self._translated("read"):
            revisions = self._db.execute("SELECT revision FROM registry").fetchall()
            rows = self._db.execute("SELECT id, body FROM instance ORDER BY seq").fetchall()
        try:
            ((revision,),) = revisions
            if not isinstance(revision, int) or revision < 0:
                raise ValueError(f"revision must be a non-negative integer, not {revision!r}")
            loaded = []
            for key, body in rows:
                fields = json.loads(body)
                drain_s = fields.pop("drain_s", None)
                instance = Instance(**fields)
                if instance.id != key:
                    raise ValueError(f"row {key!r} holds instance {instance.id!r}")
                loaded.append((instance, None if drain_s is None else float(drain_s)))
        except (TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{self.path!r} is damaged: {error}") from error
        return revision, loaded

    def put(self, instance: Instance, drain_s: float | None, revision: int, *, anew: bool = False) -> None:
        """Write an instance and the registry's revision; it keeps its place, or goes last if `anew`."""
        body = json.dumps(instance.as_dict() | {"drain_s": drain_s}, separators=(",", ":"))
        with self._translated("write"), self._transaction():
            if anew:
                self._db.execute("DELETE FROM instance WHERE id = ?", (instance.id,))
            self._db.execute(
                "INSERT INTO instance (id, body) VALUES (?, ?) "
                "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                (instance.id, body),
            )
            self._db.execute("UPDATE registry SET revision = ?", (revision,))

    def remove(self, id: str, revision: int) -> None:
        """Delete an instance and write the revision."""
        with self._translated("write"), self._transaction():
            self._db.execute("DELETE FROM instance WHERE id = ?", (id,))
            self._db.execute("UPDATE registry SET revision = ?", (revision,))

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def abandon(self) -> None:
        """In the child of a fork: never close, not even at exit, for that takes the parent's journal away."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            held = "locked" in str(error)
            why = "another process or registry holds it" if held else str(error)
            raise StoreError(f"cannot {verb} the registry file {self.path!r}: {why}") from error
