"""Rows and positions picked from tensors, in the form whose gradient is fastest on the device."""

import torch
from torch import Tensor
from torch.nn import functional as F


def both_rows(vectors: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    """Rows [B,T] of E [2,n,H] -> two [B,T,H]."""
    if rows.device.type == "cpu":
        return tuple(F.embedding(rows, table) for table in vectors)
    # In one lookup, because the gradient of a lookup sorts the rows.
    return F.embedding(rows, vectors.transpose(0, 1).flatten(1)).chunk(2, dim=-1)


def at(x: Tensor, position: Tensor) -> Tensor:
    """x [B,T,C] at position [B] or [B,n] of its row -> [B,C] or [B,n,C]. At a repeated position, all gradients but one
    must be zero."""
    if x.device.type != "cpu":
        # Its gradient is a sum without an order, but of one number and zeros. F.embedding would sort the positions.
        index = position.view(len(x), -1, 1).expand(-1, -1, x.shape[2])
        return x.gather(1, index).view(*position.shape, x.shape[2])
    row = torch.arange(len(x), device=x.device) * x.shape[1]
    # F.embedding instead of indexing: its gradient is faster on a CPU.
    return F.embedding(position + (row if position.dim() == 1 else row[:, None]), x.flatten(0, 1))
