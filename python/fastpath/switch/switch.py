"""The switch: what a program attaches to, and the tables its worker reads."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, TypeVar

from fastpath._engine import SwitchPort, SwitchWorker
from fastpath.errors import NotSupported
from fastpath.namespaces import Namespace, namespace_path
from fastpath.switch.announce import announcement
from fastpath.switch.arguments import (
    MAX_MTU,
    MAX_SEGMENT,
    MIN_MTU,
    Address,
    ifname_of,
    integer,
    interfaces,
    mac_text,
    name_of,
    station_mac,
)
from fastpath.switch.capture import Capture
from fastpath.switch.port import MemoryPort, Port
from fastpath.tables import Fdb, ForwardingTable

_MAX_PAIRS = 65536
_LIVE: weakref.WeakSet[Switch] = weakref.WeakSet()
_P = TypeVar("_P", bound=Port)


class Pair(NamedTuple):
    """The traffic of one (source, destination)."""

    source: str
    destination: str
    port: int
    """Number of the port it leaves by."""
    segment: int
    packets: int
    bytes: int
    learned: bool
    """Inserted into the forwarding table by the switch, not by the user."""


class Switch:
    """A virtual Ethernet switch whose frames are moved by a C++ thread that never takes the GIL.

    Parameters
    ----------
    name : str
        Shown in statistics and as the thread's name.
    mtu : int
        Of the interfaces it makes, 68 to 65521; longer frames are dropped (TCP segments that the kernel hands
        over whole are not frames yet).

    Attributes
    ----------
    forwarding : ForwardingTable
        (source, destination) MAC addresses -> port number. The worker asks it first, for every frame, and
        what the user inserts takes effect with the next one. An entry that names a port that is gone, or
        one in another segment, is passed over. When the Fdb knows the destination, the worker inserts the
        pair itself; such a *learned* pair is erased when its destination moves or its port goes, and within
        a quarter of a second after the Fdb has forgotten either end or the user has inserted an any-source
        entry for the destination. What the user inserted or replaced stays his, the very value that the
        switch had learned too.
    fdb : Fdb
        (MAC, VLAN = segment) -> port number, learned from the sources of frames.

    Notes
    -----
    A switch starts working with ``start()`` or at the beginning of a ``with`` block. At its end, when the
    last reference goes, and when the interpreter exits, the thread ends and the interfaces it made vanish.
    A child of ``os.fork`` gets a switch that is closed for good. Any number of threads may call.

    Frames are dropped, and counted by reason, rather than waited for. Frames to 01:80:c2:00:00:0x are never
    forwarded, as in any bridge. VLAN tags are carried as they are; segments do not depend on them.

    Examples
    --------
    >>> with Switch() as switch:  # doctest: +SKIP
    ...     a = switch.attach("container1", address="10.0.0.1/24")
    ...     b = switch.attach("container2", address="10.0.0.2/24")
    """

    def __init__(self, name: str = "fp0", *, mtu: int = 1500) -> None:
        self.name = name_of(name, "name")
        self.mtu = integer(mtu, "mtu", MIN_MTU, MAX_MTU)
        self.forwarding: ForwardingTable = ForwardingTable("mac", dtype="uint32")
        self.fdb: Fdb = Fdb(dtype="uint32")
        self._worker = SwitchWorker(
            self.name, self.mtu, _MAX_PAIRS, self.forwarding.capsule, self.fdb.capsule
        )
        self._ports: dict[str, Port | None] = {}  # None: being attached
        self._lock = threading.Lock()
        weakref.finalize(self, self._worker.close)
        _LIVE.add(self)

    # --- ports --------------------------------------------------------------------------------------------

    def attach(  # noqa: PLR0917 - the contract's own order
        self,
        netns: Namespace | None = None,
        ifname: str = "eth0",
        address: Address | None = None,
        mac: str | bytes | int | None = None,
        segment: int = 0,
        id: str | None = None,
    ) -> Port:
        """Make a virtual interface (a TAP device) inside a network namespace, and join it to the switch.

        Parameters
        ----------
        netns : None, int, str or path
            The current namespace; that of a process id; a name under ``/run/netns``; a path.
        ifname : str
            Its name there, at most 15 characters.
        address : str or several
            ``"10.0.0.2/24"``, ``"fd00::2/64"``: set on the interface.
        mac : str, bytes or int
            Its MAC address; None: the kernel draws one.
        segment : int
            0 to 4094. Ports reach one another only within a segment.
        id : str
            Its name within the switch; None: ``"port"`` and its number.

        Returns
        -------
        Port
            The interface is up when the call returns, and its addresses have been announced to the segment
            (unsolicited ARP and neighbour advertisements), so that neighbours forget who had them before.

        Raises
        ------
        NotSupported
            /dev/net/tun is missing, or the process may not make interfaces in that namespace.
        FileNotFoundError, FileExistsError
            No such namespace; an interface of that name exists there.
        ValueError
            A malformed argument, or an id that is taken by a port that is up.
        """
        path = namespace_path(netns)
        name, packed, wanted = ifname_of(ifname), interfaces(address), station_mac(mac)
        number = integer(segment, "segment", 0, MAX_SEGMENT)

        def make() -> SwitchPort:
            with _system_errors(name, path):
                return self._worker.attach_tap(path, name, self.mtu, wanted, packed, number)

        texts = tuple(_interface_text(*item) for item in packed)
        port = self._add(
            id, make, lambda port, id: Port(port, id, "tap", ifname=name, netns=path or None, addresses=texts)
        )
        self._worker.inject(port.number, [announcement(port._port.mac, item[0]) for item in packed])
        return port

    def attach_interface(self, ifname: str, *, segment: int = 0, id: str | None = None) -> Port:
        """Join an existing Ethernet interface of the current namespace to the switch.

        Its frames reach both the system and the switch (a packet socket); usually it has no addresses of
        its own: the host's end of a veth pair, an uplink. It is promiscuous while it is attached. Frames
        longer than its MTU are dropped (``tx_error``), except TCP segments that it cuts itself.

        Parameters
        ----------
        ifname : str
            Its name. It may be down; it works once it is up.
        segment, id
            As for :meth:`attach`.

        Raises
        ------
        NotSupported
            The process may not open packet sockets.
        OSError
            No such interface (ENODEV), or not an Ethernet interface (EINVAL).
        """
        name = ifname_of(ifname)
        number = integer(segment, "segment", 0, MAX_SEGMENT)

        def make() -> SwitchPort:
            with _system_errors(name, ""):
                return self._worker.attach_interface(name, number)

        return self._add(id, make, lambda port, id: Port(port, id, "interface", ifname=name))

    def attach_pcap(
        self,
        read: str | os.PathLike[str] | None = None,
        write: str | os.PathLike[str] | None = None,
        *,
        segment: int = 0,
        id: str | None = None,
    ) -> Port:
        """Join capture files to the switch: a station that says what one file holds, and writes down the
        answers.

        Parameters
        ----------
        read : path, optional
            A classic pcap file of Ethernet frames (either byte order). It is read into memory, and its frames
            enter the switch as fast as it takes them; their times are ignored.
        write : path, optional
            Created or emptied; what is sent to the port, as a classic pcap file. It is complete once the port
            is detached.
        segment, id
            As for :meth:`attach`.

        Raises
        ------
        ValueError
            Neither file, or `read` is not such a file; the message says where it is broken.
        """
        number = integer(segment, "segment", 0, MAX_SEGMENT)
        if read is None and write is None:
            raise ValueError("attach_pcap: expected a file to read, to write, or both")
        data = None if read is None else Path(read).read_bytes()
        target = None if write is None else os.fspath(write)

        def make() -> SwitchPort:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC  # emptied once `read` has proved good
            file = -1 if target is None else os.open(target, flags, 0o600)
            try:
                return self._worker.attach_pcap(data, file, number)
            except ValueError as error:
                raise ValueError(f"{read}: {error}") from None

        return self._add(id, make, lambda port, id: Port(port, id, "pcap"))

    def attach_memory(
        self,
        *,
        segment: int = 0,
        id: str | None = None,
        capacity: int = 1 << 20,
        vnet_header: bool = False,
        discard: bool = False,
    ) -> MemoryPort:
        """Join the program itself to the switch.

        Parameters
        ----------
        segment, id
            As for :meth:`attach`.
        capacity : int
            Bytes of frames held in each direction, at most 1 GiB; rounded up to a power of two, at least
            512 KiB.
        vnet_header : bool
            A virtio-net header of 10 bytes stands before each frame, both ways. Without it the switch
            finishes checksums that senders left open; TCP segments of up to 64 KiB still come whole.
        discard : bool
            Count what is sent here, and throw it away.
        """
        number = integer(segment, "segment", 0, MAX_SEGMENT)
        size = integer(capacity, "capacity", 1, 1 << 30)
        return self._add(
            id,
            lambda: self._worker.attach_memory(size, bool(vnet_header), bool(discard), number),
            lambda port, id: MemoryPort(port, id, self._worker),
        )

    def _add(
        self, id: str | None, make: Callable[[], SwitchPort], wrap: Callable[[SwitchPort, str], _P]
    ) -> _P:
        """Reserve the id, make the port, and list it."""
        if id is not None:
            with self._lock:
                known = self._ports.get(name_of(id, "id"), self)
                if known is None or (isinstance(known, Port) and known.up):
                    raise ValueError(f"id: {id!r} is taken")
                self._ports[id] = None
            if isinstance(known, Port):  # what was behind it is gone
                self._remove(known)
        try:
            made = make()
        except BaseException:
            if id is not None:
                with self._lock:
                    del self._ports[id]
            raise
        with self._lock:
            if id is None:
                id = f"port{made.number}"
                while id in self._ports:
                    id += "'"
            port = self._ports[id] = wrap(made, id)
        return port

    def detach(self, port: Port | str | int) -> None:
        """Take a port out; an interface that ``attach`` made vanishes with it.

        When the call returns, nothing is sent to the port any more, the pairs that the switch learned for
        it are erased, and the Fdb has forgotten the stations behind it. Entries that the user inserted
        stay, and are passed over.

        Parameters
        ----------
        port : Port, str or int
            The port, its id or its number.

        Raises
        ------
        KeyError
            The switch has no such port.
        OSError
            A capture file that the port writes did not take its last frames; the port is gone all the same.
        """
        with self._lock:
            found = self._find(port)
            del self._ports[found.id]
        self._remove(found)

    def _find(self, port: Port | str | int) -> Port:
        if isinstance(port, bool) or not isinstance(port, (Port, str, int)):
            raise TypeError(f"port: expected a Port, its id or its number, got {port!r}")
        for candidate in self._ports.values():
            if candidate is not None and (
                candidate is port or (not isinstance(port, Port) and port in (candidate.id, candidate.number))
            ):
                return candidate
        raise KeyError(f"switch {self.name!r} has no port {port!r}")

    def _remove(self, port: Port) -> None:
        try:
            self._worker.detach(port.number)
        finally:
            self.fdb.purge(port.number)

    @property
    def ports(self) -> tuple[Port, ...]:
        """The ports, by number; also those that are down."""
        with self._lock:
            found = [port for port in self._ports.values() if port is not None]
        return tuple(sorted(found, key=lambda port: port.number))

    # --- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker; nothing happens if it runs."""
        self._worker.start()

    def stop(self) -> None:
        """End the worker thread. Ports stay attached; ``start()`` goes on."""
        self._worker.stop()

    def close(self) -> None:
        """Stop, detach every port, and end every capture. The interfaces that ``attach`` made vanish.

        Raises
        ------
        OSError
            As for :meth:`detach`, once everything is closed.
        """
        self.stop()
        with contextlib.ExitStack() as each:
            each.callback(self._worker.close)
            for port in self.ports:
                each.callback(self._detach_if_there, port)

    def _detach_if_there(self, port: Port) -> None:
        with contextlib.suppress(KeyError):
            self.detach(port)

    @property
    def running(self) -> bool:
        """Whether the worker thread runs."""
        return self._worker.running

    def __enter__(self) -> Switch:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def settle(self) -> None:
        """Wait until the frames that memory ports held at the call have been handled."""
        self._worker.settle()

    # --- what it did --------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counters of the switch and of its ports, as plain numbers and text.

        Returns
        -------
        dict
            ``frames`` handled, ``rounds`` of the worker, ``pair_hits`` (the forwarding table knew the way),
            ``fdb_hits`` (the Fdb did), ``floods``, stations ``learned``, ``pairs`` remembered now,
            ``pairs_inserted`` into and ``pairs_erased`` from the forwarding table by the worker, ``drops`` by
            reason over all ports, and ``ports``: id -> what :meth:`Port.stats` returns.
        """
        ports = {port.id: port.stats() for port in self.ports}
        drops: Counter[str] = Counter()
        for port in ports.values():
            drops.update(port["drops"])
        return {
            "name": self.name,
            "running": self.running,
            "mtu": self.mtu,
            **self._worker.stats(),
            "drops": dict(drops),
            "ports": ports,
        }

    def pairs(self) -> list[Pair]:
        """The (source, destination) pairs that carried traffic, the busiest first; 65536 at most."""
        found = [
            Pair(mac_text(pair[0]), mac_text(pair[1]), pair[2], pair[3], pair[4], pair[5], pair[6])
            for pair in self._worker.pairs()
        ]
        return sorted(found, key=lambda pair: (-pair.packets, pair.source, pair.destination))

    def capture(self, path: str | os.PathLike[str], port: Port | str | int | None = None) -> Capture:
        """Write frames to a pcap file until the capture is closed.

        Parameters
        ----------
        path : str or path
            Created or emptied.
        port : Port, str or int, optional
            What it received and what was sent to it; None: everything that the switch received, dropped
            frames too.
        """
        with self._lock:
            number = 0 if port is None else self._find(port).number
        text = os.fspath(path)
        file = os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return Capture(self._worker, text, self._worker.add_capture(file, number))

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"Switch({self.name!r}, mtu={self.mtu}, {len(self.ports)} ports, {state})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Switch owns a thread and interfaces and cannot be pickled or copied")


def _interface_text(packed: bytes, prefixlen: int) -> str:
    return f"{ipaddress.ip_address(packed)}/{prefixlen}"


@contextlib.contextmanager
def _system_errors(ifname: str, netns: str) -> Iterator[None]:
    """Say what stands in the way, and what to do about it."""
    try:
        yield
    except OSError as error:
        place = f"network namespace {netns}" if netns else "the current network namespace"
        text = error.strerror or str(error)
        if error.errno == errno.EACCES and "IPv6 address" in text:
            raise NotSupported(
                f"attach {ifname} in {place}: {text}; IPv6 is disabled there "
                "(sysctl net.ipv6.conf.default.disable_ipv6)"
            ) from error
        if error.errno in {errno.EPERM, errno.EACCES}:
            raise NotSupported(
                f"attach {ifname} in {place}: {text}; this needs CAP_NET_ADMIN and CAP_NET_RAW over the "
                "namespace (and CAP_SYS_ADMIN to enter it): run as root, or under 'unshare -Urnm'"
            ) from error
        if "/dev/net/tun" in text:
            raise NotSupported(
                f"attach {ifname} in {place}: {text}; load the module with 'modprobe tun', or pass the "
                "device into the container with '--device /dev/net/tun'"
            ) from error
        if error.errno == errno.EINVAL and "not a network namespace" in text:
            raise ValueError(f"netns: {text}") from error
        raise


def _abandon_all() -> None:
    for switch in list(_LIVE):
        switch._worker.abandon()
        # The lock may have been held by a thread that only the parent has.
        switch._ports, switch._lock = {}, threading.Lock()


os.register_at_fork(after_in_child=_abandon_all)
