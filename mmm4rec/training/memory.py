"""The peak memory of a computation."""

from pathlib import Path

import torch

__all__ = ["forget_peak", "peak_bytes"]

_PROC = Path("/proc/self")


def forget_peak() -> None:
    """Reset the peak. If the kernel does not allow it, the peak stays that of the whole process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        (_PROC / "clear_refs").write_text("5")  # proc(5): resets the peak to the current resident set
    except OSError:
        return


def peak_bytes(device: str) -> int | None:
    """The peak since the reset: of tensors on a GPU; on a CPU of the resident set, which only Linux reports."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    status = _PROC / "status"
    if device != "cpu" or not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
