from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

DTYPE: np.dtype[np.void]

def parse_buffer(
    data: NDArray[np.uint8], offsets: NDArray[np.uint64], lengths: NDArray[np.uint64], out: NDArray[Any]
) -> None: ...
def parse_list(frames: list[bytes], out: NDArray[Any]) -> None: ...
def checksum(data: Buffer) -> int: ...
def updated_checksum(checksum: int, before: bytes, after: bytes) -> int: ...
