"""A pcap file that the switch's worker writes."""

from __future__ import annotations

from types import TracebackType

from fastpath._engine import SwitchWorker


class Capture:
    """A running capture; made by :meth:`fastpath.Switch.capture`.

    Frames reach the file within about a quarter of a second. A capture ends with ``close()``, at the end of a
    ``with`` block, with its port, or with the switch.

    Attributes
    ----------
    path : str
        The file.
    """

    def __init__(self, worker: SwitchWorker, path: str, number: int) -> None:
        self.path = path
        self._worker = worker
        self._number: int | None = number

    def close(self) -> int:
        """Write what is left and close the file.

        Returns
        -------
        int
            Frames in the file; 0 if the capture had ended before.

        Raises
        ------
        OSError
            The file could not be written, for example because the disk is full, or because nobody reads the
            pipe that it is.
        """
        number, self._number = self._number, None
        return 0 if number is None else self._worker.remove_capture(number)

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Capture({self.path!r}{'' if self._number is not None else ', closed'})"
