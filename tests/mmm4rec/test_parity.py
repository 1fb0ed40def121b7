"""The published equations: tensors of the published model, and an independent twin for sizes they do not cover.

The twin is written from the equations alone, in float64, one sample, position and head at a time, with the recurrence
for the SSM and an explicit Fourier sum. It shares no code with the package.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmm4rec.errors import ModelError
from mmm4rec.published.names import from_published, to_published
from mmm4rec.published.parity import check

BASE = {
    "hidden_size": 12,
    "inner_size": 10,
    "num_layers": 1,
    "d_state": 3,
    "n_groups": 4,
    "d_conv": 4,
    "expand": 2,
    "head_dim": 6,
    "norm_eps": "1e-12",
    "is_ffn": True,
    "is_time": True,
    "p2p_residual": False,
    "is_modality_bias": True,
    "item_mm_fusion": "static",
    "max_len": 7,
    "temperature": 0.8,
    "item_num": 11,
    "text_dim": 5,
    "image_dim": 4,
    "in_batch_loss": False,
}
VARIANTS = {
    "other length": {"max_len": 9},
    "shorter conv, even length": {"max_len": 8, "d_conv": 3},
    "one group": {"n_groups": 1},
    "two groups": {"n_groups": 2},
    "time off": {"is_time": False},
    "no FFN": {"is_ffn": False},
    "shared fusion": {"item_mm_fusion": "dynamic_shared"},
    "fusion by item": {"item_mm_fusion": "dynamic_instance"},
    "two layers, without ID, in-batch": {"num_layers": 2, "is_modality_bias": False, "in_batch_loss": True},
    "two layers, time off, one group": {"num_layers": 2, "is_time": False, "n_groups": 1},
}


@pytest.mark.parametrize("name", ["with_id_1layer", "without_id_2layers_in_batch"])
def test_the_published_tensors_are_matched(shared: Path, name: str) -> None:
    report = check(shared / "parity" / f"{name}.safetensors")
    assert report.ok, report
    assert max(report.user, report.scores, report.loss) < 5e-6
    assert len(report.gradients) > 60
    assert not report.unused


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_independent_twin_is_matched(tmp_path: Path, variant: str) -> None:
    file = write_parity(tmp_path / "twin.safetensors", {**BASE, **VARIANTS[variant]})
    report = check(file)
    assert report.ok, (report.user, report.scores, report.loss, list(report.gradients.items())[:5])
    assert report.gradient < 1e-6


def test_parameters_of_a_path_switched_off_are_reported_not_refused(tmp_path: Path) -> None:
    file = write_parity(tmp_path / "twin.safetensors", {**BASE, "is_time": False})
    tensors = load_file(file)
    tensors["param.layer_norm_time.weight"] = torch.ones(7)
    tensors["grad.layer_norm_time.weight"] = torch.zeros(7)
    save_file(tensors, file, {"config": json.dumps({**BASE, "is_time": False})})
    report = check(file)
    assert report.ok
    assert report.unused == ["layer_norm_time.weight"]


@pytest.mark.parametrize("tensor", ["output.user", "grad.encoder_ssd_layers.0.ssd.A_log"])
@pytest.mark.parametrize("damage", [1e-2, float("nan")])
def test_a_difference_fails(tmp_path: Path, tensor: str, damage: float) -> None:
    file = write_parity(tmp_path / "twin.safetensors", BASE)
    tensors = load_file(file)
    tensors[tensor].view(-1)[0] += damage
    save_file(tensors, file, {"config": json.dumps(BASE)})
    assert not check(file).ok


def test_names_translate_both_ways() -> None:
    config = {**BASE, "num_layers": 2, "item_mm_fusion": "dynamic_shared"}
    names = list(parameters(config, torch.Generator().manual_seed(0)))
    ours = [from_published(name) for name in names]
    assert None not in ours
    assert len(set(ours)) == len(names)
    assert [to_published(name or "") for name in ours] == names
    assert to_published("absent") is None
    assert from_published("encoder_ssd_layers.0.nonsense.weight") is None


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(ModelError, match="not a readable"):
        check(file)
    file.write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="not a readable"):
        check(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="not a parity file"):
        check(file)
    save_file({"a": torch.zeros(1)}, file, {"config": json.dumps(BASE)})
    with pytest.raises(ModelError, match=r"no tensor input\.item_seq"):
        check(file)
    write_parity(file, BASE)
    tensors = load_file(file)
    save_file(tensors, file, {"config": json.dumps({**BASE, "hiden_size": 3})})
    with pytest.raises(ModelError, match="did you mean 'hidden_size'"):
        check(file)
    save_file(tensors, file, {"config": json.dumps({**BASE, "d_state": 5})})
    with pytest.raises(ModelError, match="expected"):
        check(file)
    removed = {k: v for k, v in tensors.items() if k != "param.text_adapter.0.bias"}
    save_file(removed, file, {"config": json.dumps(BASE)})
    with pytest.raises(ModelError, match=r"no parameter text_adapter\.0\.bias"):
        check(file)
    tensors["input.item_seq"][0, 0] = 99
    save_file(tensors, file, {"config": json.dumps(BASE)})
    with pytest.raises(ModelError, match="out of range"):
        check(file)


# The twin ---------------------------------------------------------------------------------------------------------


def parameters(c: dict, random: torch.Generator) -> dict[str, torch.Tensor]:
    """Random parameters under their published names, large enough for every path to matter."""
    H, L, S, G = c["hidden_size"], c["max_len"], c["d_state"], c["n_groups"]
    Din, W, bins = 2 * H, c["d_conv"], c["max_len"] // 2 + 1
    K = Din // c["head_dim"]
    p: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int, mean: float = 0.0, std: float = 0.3) -> None:
        p[name] = mean + std * torch.randn(*shape, generator=random, dtype=torch.float64)

    def linear(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    def conv(name: str, channels: int) -> None:
        add(f"{name}.weight", channels, 1, W)
        add(f"{name}.bias", channels)

    def norm(name: str, width: int) -> None:
        add(f"{name}.weight", width, mean=1.0)
        add(f"{name}.bias", width)

    def ffn(name: str) -> None:
        if c["is_ffn"]:
            linear(f"{name}.fc1", H, c["inner_size"])
            linear(f"{name}.fc2", c["inner_size"], H)
            norm(f"{name}.layer_norm", H)

    def ssm(name: str) -> None:
        add(f"{name}.A_log", K)
        add(f"{name}.D", K, mean=1.0)
        add(f"{name}.dt_bias", K)
        add(f"{name}.norm.weight", Din, mean=1.0)
        linear(f"{name}.out_proj", Din, H)
        if c["is_time"]:
            linear(f"{name}.mlp4time_scale.1", L, L)
            linear(f"{name}.mlp4time_scale.3", L, L)
            conv(f"{name}.conv1d4time_1", K)
            conv(f"{name}.conv1d4time_2", K)

    linear("text_adapter.0", c["text_dim"], H)
    linear("vision_adapter.0", c["image_dim"], H)
    norm("text_in_layer_norm", H)
    norm("vision_in_layer_norm", H)
    if c["is_modality_bias"]:
        add("text_item_embedding_bias", c["item_num"] + 1, H)
        add("vision_item_embedding_bias", c["item_num"] + 1, H)
    if c["item_mm_fusion"] == "dynamic_shared":
        add("fusion_factor", 2)
    if c["item_mm_fusion"] == "dynamic_instance":
        add("fusion_factor", c["item_num"] + 1, 2)
    if c["is_time"]:
        norm("layer_norm_time", L)
    for i in range(c["num_layers"]):
        encoder, decoder = f"encoder_ssd_layers.{i}", f"decoder_ssd_layers.{i}"
        linear(f"{encoder}.ssd.in_proj", H, 2 * Din + 2 * G * S + K)
        conv(f"{encoder}.ssd.conv1d_1", Din + 2 * G * S)
        ssm(f"{encoder}.ssd")
        if c["is_time"]:
            linear(f"{encoder}.ssd.time_gate_residual.1", L, 1)
            norm(f"{encoder}.ssd.time_layer_norm", L)
            for modality in ("text", "vision", "co"):
                linear(f"{decoder}.{modality}_complex_weight.0.real", bins, bins)
                linear(f"{decoder}.{modality}_complex_weight.0.imag", bins, bins)
        norm(f"{encoder}.layer_norm", H)
        ffn(f"{encoder}.ffn")
        norm(f"{decoder}.layer_norm", H)
        linear(f"{decoder}.co_ssd.u_in_proj", H, Din + G * S + K)
        linear(f"{decoder}.co_ssd.q_in_proj", H, G * S)
        linear(f"{decoder}.co_ssd.z_in_proj", H, Din)
        conv(f"{decoder}.co_ssd.u_conv1d", Din + G * S)
        conv(f"{decoder}.co_ssd.q_conv1d", G * S)
        ssm(f"{decoder}.co_ssd")
        norm(f"{decoder}.co_layer_norm", H)
        ffn(f"{decoder}.ffn")
    return p


class Twin:
    """One user at a time; p holds the parameters, c the config."""

    def __init__(self, c: dict, p: dict[str, torch.Tensor], text: torch.Tensor, image: torch.Tensor) -> None:
        self.c, self.p = c, p
        self.E = []
        for name, features in (("text", text), ("vision", image)):
            vectors = self.linear(f"{name}_adapter.0", features)
            if c["is_modality_bias"]:
                vectors = vectors + p[f"{name}_item_embedding_bias"]
            self.E.append(vectors)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-12) * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """x [T,C], causal and depthwise."""
        weight, bias = self.p[f"{name}.weight"][:, 0], self.p[f"{name}.bias"]
        width = weight.shape[1]
        rows = []
        for t in range(len(x)):
            total = bias
            for k in range(width):
                if t - width + 1 + k >= 0:
                    total = total + weight[:, k] * x[t - width + 1 + k]
            rows.append(total)
        return torch.stack(rows)

    def ffn(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if not self.c["is_ffn"]:
            return x
        inner = self.linear(f"{name}.fc1", x)
        inner = inner * torch.clamp(inner + 3, 0, 6) / 6
        return self.norm(f"{name}.layer_norm", self.linear(f"{name}.fc2", inner) + x)

    def scale(self, name: str, D: torch.Tensor) -> torch.Tensor:
        """D [K,L] -> a [K,L]."""
        s = self.linear(f"{name}.mlp4time_scale.3", silu(self.linear(f"{name}.mlp4time_scale.1", D)))
        s = s - torch.tanh(s)
        return silu(self.conv(f"{name}.conv1d4time_2", silu(self.conv(f"{name}.conv1d4time_1", (s * D).T)))).T

    def ssm(self, name: str, x, B, C, dt, z, a) -> torch.Tensor:
        c, p = self.c, self.p
        P, S, G = c["head_dim"], c["d_state"], c["n_groups"]
        K = x.shape[1] // P
        heads = []
        for k in range(K):
            g = k // (K // G)
            h = torch.zeros(P, S, dtype=torch.float64)
            rows = []
            for t in range(len(x)):
                step = dt[t, k] * (1 if a is None else a[k, t]) + p[f"{name}.dt_bias"][k]
                delta = torch.log1p(torch.exp(step))
                u = delta * x[t, k * P : (k + 1) * P]
                decay = torch.exp(-torch.exp(p[f"{name}.A_log"][k]) * delta)
                h = decay * h + torch.outer(u, B[t, g * S : (g + 1) * S])
                rows.append(h @ C[t, g * S : (g + 1) * S] + p[f"{name}.D"][k] * u)
            heads.append(torch.stack(rows))
        y = torch.cat(heads, dim=1) * silu(z)
        y = y / torch.sqrt((y**2).mean(-1, keepdim=True) + 1e-12) * p[f"{name}.norm.weight"]
        return self.linear(f"{name}.out_proj", y)

    def branch(self, name: str, u: torch.Tensor, D: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        c = self.c
        Din, GS = 2 * c["hidden_size"], c["n_groups"] * c["d_state"]
        v = self.linear(f"{name}.in_proj", u)
        z, xBC, dt = v[:, :Din], v[:, Din : 2 * Din + 2 * GS], v[:, 2 * Din + 2 * GS :]
        xBC = silu(self.conv(f"{name}.conv1d_1", xBC))
        x, B, C = xBC[:, :Din], xBC[:, Din : Din + GS], xBC[:, Din + GS :]
        if D is None:
            return self.ssm(name, x, B, C, dt, z, None), None
        a = self.scale(name, D)
        gate = torch.sigmoid(self.linear(f"{name}.time_gate_residual.1", D))
        out = self.ssm(name, x, B, C, dt, z, a)
        return out, self.norm(f"{name}.time_layer_norm", gate * D + (1 - gate) * a)

    def cross(self, name: str, text: torch.Tensor, image: torch.Tensor, D: torch.Tensor | None) -> torch.Tensor:
        c = self.c
        Din, GS = 2 * c["hidden_size"], c["n_groups"] * c["d_state"]
        v = self.linear(f"{name}.u_in_proj", text)
        xB, dt = silu(self.conv(f"{name}.u_conv1d", v[:, : Din + GS])), v[:, Din + GS :]
        C = silu(self.conv(f"{name}.q_conv1d", self.linear(f"{name}.q_in_proj", image)))
        z = self.linear(f"{name}.z_in_proj", image + text)
        a = None if D is None else self.scale(name, D)
        return self.ssm(name, xB[:, :Din], xB[:, Din:], C, dt, z, a)

    def fourier(self, name: str, D_text: torch.Tensor, D_image: torch.Tensor) -> torch.Tensor:
        L = D_text.shape[-1]
        bins = L // 2 + 1
        angle = -2 * math.pi * torch.outer(torch.arange(L).double(), torch.arange(bins).double()) / L

        def gain(modality: str, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            part = f"{name}.{modality}_complex_weight.0"
            Wr, br = self.p[f"{part}.real.weight"], self.p[f"{part}.real.bias"]
            Wi, bi = self.p[f"{part}.imag.weight"], self.p[f"{part}.imag.bias"]
            return x @ Wr.T + br - (y @ Wi.T + bi), x @ Wi.T + bi + (y @ Wr.T + br)

        real, imag = 0, 0
        for modality, D in (("text", D_text), ("vision", D_image)):
            r, i = D @ torch.cos(angle) / math.sqrt(L), D @ torch.sin(angle) / math.sqrt(L)
            gr, gi = gain(modality, r, i)
            real, imag = real + gr * r - gi * i, imag + gr * i + gi * r
        real, imag = gain("co", real, imag)
        # The real inverse: bins between the first and the (even) last stand for two conjugate frequencies.
        twice = torch.full((bins,), 2.0, dtype=torch.float64)
        twice[0] = 1
        if L % 2 == 0:
            twice[-1] = 1
        return ((real * twice) @ torch.cos(angle).T + (imag * twice) @ torch.sin(angle).T) / math.sqrt(L)

    def user(self, items: torch.Tensor, times: torch.Tensor, length: int) -> torch.Tensor:
        """Over the full padded length, branch by branch."""
        text, image = (
            self.norm(f"{name}_in_layer_norm", E[items]) for name, E in zip(("text", "vision"), self.E, strict=True)
        )
        Dt = Dv = None
        if self.c["is_time"]:
            gaps = torch.cat([torch.zeros(1), times[1:] - times[:-1]]).double()
            K = 2 * self.c["hidden_size"] // self.c["head_dim"]
            Dt = Dv = self.norm("layer_norm_time", gaps).expand(K, -1)
        for i in range(self.c["num_layers"]):
            encoder, decoder = f"encoder_ssd_layers.{i}", f"decoder_ssd_layers.{i}"
            out, Dt = self.branch(f"{encoder}.ssd", text, Dt)
            text = self.ffn(f"{encoder}.ffn", self.norm(f"{encoder}.layer_norm", out + text))
            out, Dv = self.branch(f"{encoder}.ssd", image, Dv)
            image = self.norm(f"{decoder}.layer_norm", out + image)
            D = None if Dt is None else self.fourier(decoder, Dt, Dv)
            cross = self.cross(f"{decoder}.co_ssd", text, image, D)
            image = self.ffn(f"{decoder}.ffn", self.norm(f"{decoder}.co_layer_norm", cross + image + text))
        return image[length - 1]

    def scores(self, user: torch.Tensor) -> torch.Tensor:
        unit = [E / E.norm(dim=-1, keepdim=True) for E in self.E]
        weights = torch.ones(1, 2)
        if self.c["item_mm_fusion"] != "static":
            e = torch.exp(self.p["fusion_factor"].view(-1, 2))
            weights = e / e.sum(-1, keepdim=True)
        return (weights[:, 0] * (unit[0] @ user) + weights[:, 1] * (unit[1] @ user)) / self.c["temperature"]


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def write_parity(file: Path, c: dict, users: int = 4, seed: int = 0) -> Path:
    """A parity file of the twin."""
    random = torch.Generator().manual_seed(seed)
    # The file holds float32: what the twin computes with must be what the file says.
    p = {name: value.float().double().requires_grad_() for name, value in parameters(c, random).items()}
    N, L = c["item_num"], c["max_len"]
    text, image = (torch.randn(N + 1, c[w], generator=random).double() for w in ("text_dim", "image_dim"))
    lengths = torch.tensor([L, 1, *torch.randint(2, L, (users - 2,), generator=random).tolist()])
    real = torch.arange(L) < lengths[:, None]
    items = torch.randint(1, N + 1, (users, L), generator=random) * real
    gaps = torch.randint(0, 90, (users, L), generator=random) * 86_400
    times = (1_300_000_000 + gaps.cumsum(1)) * real
    labels = torch.randperm(N, generator=random)[:users] + 1

    twin = Twin(c, p, text, image)
    user = torch.stack([twin.user(items[b], times[b], int(lengths[b])) for b in range(users)])
    scores = torch.stack([twin.scores(u) for u in user])
    logits, target = (scores[:, labels], torch.arange(users)) if c["in_batch_loss"] else (scores, labels)
    loss = (logits.logsumexp(1) - logits[torch.arange(users), target]).mean()
    loss.backward()
    tensors = {
        "input.item_seq": items,
        "input.timestamps": times,
        "input.item_seq_len": lengths,
        "input.labels": labels,
        "buffer.text_embedding": text,
        "buffer.vision_embedding": image,
        "output.user": user,
        "output.scores": scores,
        "output.loss": loss.view(1),
    }
    for name, value in p.items():
        tensors[f"param.{name}"] = value
        tensors[f"grad.{name}"] = torch.zeros_like(value) if value.grad is None else value.grad
    stored = {k: (v.float() if v.is_floating_point() else v).detach().contiguous() for k, v in tensors.items()}
    save_file(stored, file, {"config": json.dumps(c)})
    return file
