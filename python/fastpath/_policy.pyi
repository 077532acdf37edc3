from typing import Any

import numpy as np
from numpy.typing import NDArray

class PolicyCore:
    def __init__(self, seed: int) -> None: ...
    def add(self, fields: tuple[Any, ...]) -> None: ...
    def replace(self, rules: list[tuple[Any, ...]], keep_hits: bool) -> None: ...
    def erase(self, fields: tuple[Any, ...]) -> None: ...
    def compile(self) -> None: ...
    def decide(
        self,
        family: int,
        source: int,
        destination: int,
        protocol: int,
        source_port: int,
        destination_port: int,
        count: bool,
    ) -> int: ...
    def decide_many(
        self,
        sources: NDArray[Any],
        destinations: NDArray[Any],
        protocols: NDArray[np.uint8],
        source_ports: NDArray[np.uint16],
        destination_ports: NDArray[np.uint16],
        out: NDArray[np.uint32],
    ) -> None: ...
    def hits(self, number: int) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def compiled(self) -> bool: ...
