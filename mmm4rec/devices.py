"""Values by device."""

from collections.abc import Mapping
from typing import TypeVar

import torch

T = TypeVar("T")


def on_device(device: torch.device, values: Mapping[str, T]) -> T:
    """The value for a device, from values for `cpu` and `cuda`. Any accelerator counts as a GPU."""
    return values.get(device.type, values["cuda"])
