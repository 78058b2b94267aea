"""Where a model that is to compute in float32 finds room: as float32, or as it is stored and widened one module at a time, or on the disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core import paths
from core.errors import UserError
from core.export.tensors import model_tensors
from core.units import size

Device = Literal["cuda", "cpu", "disk"]
SPARE_SHARE, SPARE_BYTES = 0.1, 2**30  # beside the weights: what one row takes on its way through, and the widened module


@dataclass(frozen=True)
class Room:
    """`as_stored`: the weights stay in the precision that they are stored in, and each module's become float32 while it computes."""

    device: Device
    as_stored: bool = False


def find_room(folder: Path, free_bytes: Sequence[tuple[Device, int]], *, may_use_disk: bool) -> Room:
    """The first place with room for the model in `folder`; `free_bytes` names the devices, the quickest first.

    Raises:
        UserError: no device has room (code MEMORY), and the disk will not do.
    """
    tensors = model_tensors(folder).values()
    stored = sum(tensor.size_bytes for tensor in tensors)
    wide = sum(4 * math.prod(tensor.shape) for tensor in tensors)
    for device, free in free_bytes:
        for as_stored, weights in ((False, wide), (True, stored)):
            if weights * (1 + SPARE_SHARE) + SPARE_BYTES <= free:
                return Room(device, as_stored)
    if may_use_disk:
        return Room("disk")
    raise UserError(
        f"Loading {paths.model_name(folder)} takes {size(stored * (1 + SPARE_SHARE) + SPARE_BYTES)} of memory, "
        f"and {size(max(free for _, free in free_bytes))} are free.",
        "memory",
        "Close other programs, or prove it on a machine with more memory.",
        code="MEMORY",
    )
