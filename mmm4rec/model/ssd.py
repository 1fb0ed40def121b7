"""State-space duality (Dao and Gu 2024, arXiv 2405.21060): the recurrence h_t = exp(A delta_t) h_{t-1} +
B_t (delta_t x_t), y_t = C_t h_t, and its forms.

`sequential` is the recurrence itself in float64, the reference for the other forms. `quadratic` is the same map as one
masked matrix product, the fastest form for short sequences; on a GPU, `short` is the same in one kernel. `chunked` is
quadratic within chunks and passes the state from one chunk to the next, so it is linear in the length. `triton` is
mamba-ssm's kernel of the chunked form (`mmm4rec.model.kernels`). `choose` selects a form and gives the reason.

Shapes, for all forms: x [B,T,K,P], delta [B,T,K], A [K] (negative), B and C [B,T,G,S], result [B,T,K,P] in the
type of x; head k uses group k // (K/G).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mmm4rec.config import SSDForm
from mmm4rec.devices import on_device
from mmm4rec.errors import ConfigError
from mmm4rec.model.kernels import SCAN, Choice, chunk_scan, short_ssd, short_ssd_missing

CHUNK = 64
"""Positions per chunk of `chunked`."""
QUADRATIC_UP_TO = {"cpu": 128, "cuda": 256}
"""The lengths up to which `quadratic` is chosen. On a CPU, the other form becomes faster between 128 and 256
(`benchmarks/ssd.py`, one core). The CUDA value is an estimate until the benchmark is run there."""
FORGOTTEN = -100.0
"""The smallest log-decay of one step. exp(-100) is 0 in float32, so nothing is lost by clamping there. Without this
floor, one huge step would destroy the precision of all later steps in the differences of cumulative sums."""


def choose(
    length: int,
    override: SSDForm = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Choice:
    """The form for sequences of `length` positions on `device`.

    Raises:
        ConfigError: the form is unknown or cannot run here.
    """
    device = torch.device(device)
    if override not in get_args(SSDForm):
        raise ConfigError(f"ssd_form {override!r} is unknown: choose one of {', '.join(get_args(SSDForm))}")
    if override == "triton" and (missing := SCAN.missing(device, dtype)):
        raise ConfigError(f"ssd_form is 'triton', but {missing}, or set ssd_form to auto")
    if override == "short" and (missing := short_ssd_missing(device, dtype, length, 1)):
        raise ConfigError(f"ssd_form is 'short', but {missing}, or set ssd_form to auto")
    if override != "auto":
        return Choice(override, f"ssd_form is set to {override}")
    form = _fastest(length, device, dtype)
    limit = on_device(device, QUADRATIC_UP_TO)
    if form == "short":
        return Choice(form, f"{length} positions: our kernel keeps the matrices of a head in registers")
    if form == "quadratic":
        return Choice(
            form, f"{length} positions: up to {limit} on {device.type} one masked matrix product per head wins"
        )
    reason = f"{length} positions: over {limit} on {device.type} the chunked form, linear in the length, wins"
    if form == "triton":
        return Choice(form, f"{reason}, and mamba-ssm's kernel of it runs here")
    return Choice(form, reason if device.type == "cpu" else f"{reason}; {SCAN.missing(device, dtype)}")


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    form: SSDForm = "auto",
    skip: Tensor | None = None,
) -> Tensor:
    """y [B,T,K,P] by the named form, or by the choice of `choose` if the form is `auto`. With `skip` [K], it adds
    skip * delta * x (the model's skip connection; Mamba's uses x).

    Raises:
        ConfigError: the form is unknown or cannot run here.
    """
    if form == "auto":
        form = _fastest(x.shape[1], x.device, x.dtype, max(x.shape[3], B.shape[3]))
    else:
        choose(x.shape[1], form, x.device, x.dtype)
    if form == "quadratic":
        return quadratic(x, delta, A, B, C, skip)
    if form == "short":
        return short_ssd(x, delta, A, B, C, torch.zeros_like(A) if skip is None else skip, FORGOTTEN)
    y = _FORMS[form](x, delta, A, B, C)
    return y if skip is None else (y + (skip * delta)[..., None] * x).to(x.dtype)


def sequential(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence, one position after the other, in float64."""
    batch, _, heads, width = x.shape
    per_group = heads // B.shape[2]
    decay = torch.exp(delta.double() * A.double())[..., None, None]
    B, C = (m.double().repeat_interleave(per_group, dim=2)[..., None, :] for m in (B, C))
    inputs = (delta.double()[..., None] * x.double())[..., None]
    state = inputs.new_zeros(batch, heads, width, B.shape[-1])
    outputs = []
    # unbind instead of indexing: at every position, the gradient of an index is as long as the whole sequence.
    for decay_t, input_t, B_t, C_t in zip(*(m.unbind(1) for m in (decay, inputs, B, C)), strict=True):
        state = decay_t * state + input_t * B_t
        outputs.append((state * C_t).sum(-1))
    return torch.stack(outputs, dim=1).to(x.dtype)


def quadratic(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None = None) -> Tensor:
    """((C B^T) o exp(segsum(A delta)) o delta) x, one [T,T] matrix per head; `skip` joins its diagonal."""
    x, delta, B, C = (m.transpose(1, 2) for m in (x, delta, B, C))
    return _mixed(x, widened(delta), A, B, C, skip).transpose(1, 2)


def chunked(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int = CHUNK) -> Tensor:
    """Like `quadratic` within chunks, which the state at each chunk's end links: time and memory are linear in T."""
    batch, length, heads, width = x.shape
    if length <= chunk:
        return quadratic(x, delta, A, B, C)
    # N chunks of c positions become separate rows, heads first, copied only once for all products below.
    x, B, C = (_in_chunks(m, chunk).contiguous() for m in (x, B, C))
    steps = _in_chunks(widened(delta), chunk)  # [BN,K,c]
    B_of_head, C_of_head = (m.repeat_interleave(heads // m.shape[1], dim=1) for m in (B, C))
    with without_autocast(x.device):
        total = _log_decay(steps, A[:, None]).cumsum(-1)
        since_start, until_end = total.exp(), (total[..., -1:] - total).exp()
        at_end = ((steps * until_end)[..., None] * x).to(x.dtype)
    added = widened(B_of_head.mT @ at_end)  # [BN,K,S,P]
    decay = since_start[..., -1, None, None]
    entering = _passed(*(m.view(batch, -1, *m.shape[1:]) for m in (added, decay))).view(added.shape)
    across = since_start[..., None] * (C_of_head @ entering.to(x.dtype))
    y = (_mixed(x, steps, A, B, C) + across).to(x.dtype)
    return y.transpose(1, 2).reshape(batch, -1, heads, width)[:, :length]


def _mixed(x: Tensor, steps: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None = None) -> Tensor:
    """The quadratic form, heads first: x [B,K,T,P], steps [B,K,T], B and C [B,G,T,S], result [B,K,T,P].

    Steps and skip multiply the matrices and not x, because the matrices are much smaller while T is short.
    """
    batch, heads, length, _ = x.shape
    groups = B.shape[1]
    with without_autocast(x.device):
        decay = segsum(_log_decay(steps, A[:, None])).exp() * steps[:, :, None]
    weights = (C @ B.mT)[:, :, None] * decay.view(batch, groups, heads // groups, length, length)
    weights = weights.view(batch, heads, length, length)
    if skip is not None:
        weights = weights + torch.diag_embed(skip[:, None] * steps)
    return (weights.to(x.dtype) @ x).to(x.dtype)


def _in_chunks(m: Tensor, chunk: int) -> Tensor:
    """[B,T,K,...] -> [BN,K,c,...]. The last chunk is padded with zeros: a step of 0 changes nothing."""
    padded = F.pad(m, (0, 0) * (m.dim() - 2) + (0, -m.shape[1] % chunk))
    return padded.reshape(-1, chunk, *m.shape[2:]).transpose(1, 2)


def _passed(added: Tensor, decay: Tensor) -> Tensor:
    """The state that enters each chunk, from the amount each chunk adds and the decay over it; all [B,N,...]."""
    state = torch.zeros_like(added[:, 0])
    entering = []
    for added_n, decay_n in zip(added.unbind(1), decay.unbind(1), strict=True):
        entering.append(state)
        state = torch.addcmul(added_n, decay_n, state)
    return torch.stack(entering, dim=1)


_FORMS: dict[str, Callable[..., Tensor]] = {
    "sequential": sequential,
    "quadratic": quadratic,
    "chunked": chunked,
    "triton": chunk_scan,
}


def _fastest(length: int, device: torch.device, dtype: torch.dtype, widest: int = 1) -> SSDForm:
    """`choose` without the reason, which a compiled model does not need to trace. `widest`: head width and state."""
    compiled = torch.compiler.is_compiling()
    if device.type == "cuda" and not compiled and short_ssd_missing(device, dtype, length, widest) is None:
        return "short"
    if length <= on_device(device, QUADRATIC_UP_TO):
        return "quadratic"
    return "chunked" if device.type == "cpu" or SCAN.missing(device, dtype) else "triton"


def _log_decay(delta: Tensor, A: Tensor) -> Tensor:
    """A delta, at least `FORGOTTEN`, in float32 or wider."""
    return (widened(delta) * A).clamp(min=FORGOTTEN)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """The context in which operators keep the types of their inputs."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def widened(x: Tensor) -> Tensor:
    """`x` in float32 if it is narrower (autocast), for sums and exponentials that bf16 would make inaccurate."""
    return x.float() if x.dtype.itemsize < 4 else x


def segsum(v: Tensor) -> Tensor:
    """[..., T] -> [..., T, T]: v[j+1] + ... + v[i] at (i, j) for j <= i, -inf above the diagonal.

    It uses differences of one cumulative sum. The upper triangle is masked before the exponential: its differences are
    positive and could overflow, and the gradient would become NaN.
    """
    total = v.cumsum(-1)
    length = v.shape[-1]
    above = torch.ones(length, length, dtype=torch.bool, device=v.device).triu(1)
    return (total[..., :, None] - total[..., None, :]).masked_fill(above, -torch.inf)
