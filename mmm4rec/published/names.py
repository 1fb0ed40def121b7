"""Published parameter names and our name for each. The mapping is exact in both directions.

Published checkpoints contain the block shared by both branches twice, as `encoder_ssd_layers.i.ssd` and as
`decoder_ssd_layers.i.ssd`. Our checkpoints and the parity files contain it once.
"""

import re

_STEP_SCALE = {
    "step_scale.mlp_in": "mlp4time_scale.1",
    "step_scale.mlp_out": "mlp4time_scale.3",
    "step_scale.conv_in": "conv1d4time_1",
    "step_scale.conv_out": "conv1d4time_2",
}
_STATE_SPACE = {
    "state_space.A_log": "A_log",
    "state_space.dt_bias": "dt_bias",
    "state_space.skip": "D",
    "state_space.norm": "norm",
    "state_space.out": "out_proj",
}
_FEED_FORWARD = {"widen": "fc1", "narrow": "fc2", "norm": "layer_norm"}
_BRANCHES = {
    "inputs": "in_proj",
    "conv": "conv1d_1",
    "gap_gate.linear": "time_gate_residual.1",
    "gap_gate.norm": "time_layer_norm",
    **_STEP_SCALE,
    **_STATE_SPACE,
}
_CROSS = {
    "content": "u_in_proj",
    "content_conv": "u_conv1d",
    "query": "q_in_proj",
    "query_conv": "q_conv1d",
    "gate": "z_in_proj",
    **_STEP_SCALE,
    **_STATE_SPACE,
}
_LAYER = {
    **{f"branches.{ours}": f"encoder_ssd_layers.#.ssd.{theirs}" for ours, theirs in _BRANCHES.items()},
    "text_norm": "encoder_ssd_layers.#.layer_norm",
    **{f"text_ffn.{ours}": f"encoder_ssd_layers.#.ffn.{theirs}" for ours, theirs in _FEED_FORWARD.items()},
    "image_norm": "decoder_ssd_layers.#.layer_norm",
    **{f"cross.{ours}": f"decoder_ssd_layers.#.co_ssd.{theirs}" for ours, theirs in _CROSS.items()},
    "cross_norm": "decoder_ssd_layers.#.co_layer_norm",
    **{f"cross_ffn.{ours}": f"decoder_ssd_layers.#.ffn.{theirs}" for ours, theirs in _FEED_FORWARD.items()},
    **{
        f"fourier.{ours}.{part}": f"decoder_ssd_layers.#.{theirs}_complex_weight.0.{part}"
        for ours, theirs in (("text", "text"), ("image", "vision"), ("cross", "co"))
        for part in ("real", "imag")
    },
}
_OURS_TO_PUBLISHED = {
    "text_adapter": "text_adapter.0",
    "image_adapter": "vision_adapter.0",
    "text_norm": "text_in_layer_norm",
    "image_norm": "vision_in_layer_norm",
    "text_item": "text_item_embedding_bias",
    "image_item": "vision_item_embedding_bias",
    "gap_norm": "layer_norm_time",
    "fusion": "fusion_factor",
    **{f"layers.#.{ours}": theirs for ours, theirs in _LAYER.items()},
}
_PUBLISHED_TO_OURS = {theirs: ours for ours, theirs in _OURS_TO_PUBLISHED.items()}
_LEAF = re.compile(r"(.+?)(\.weight|\.bias)?")


def to_published(name: str) -> str | None:
    """The published name of our parameter `name`; None if the published model does not have it (`absent`)."""
    return _translate(name, _OURS_TO_PUBLISHED)


def from_published(name: str) -> str | None:
    """Our name of the published parameter `name`; None if it is unknown."""
    return _translate(name, _PUBLISHED_TO_OURS)


def _translate(name: str, names: dict[str, str]) -> str | None:
    match = _LEAF.fullmatch(name)
    if match is None:
        return None
    stem, leaf = match[1], match[2] or ""
    layer = re.search(r"\.(\d+)\.", stem) if "layers." in stem else None
    found = names.get(stem if layer is None else f"{stem[: layer.start()]}.#.{stem[layer.end() :]}")
    if found is None:
        return None
    return (found if layer is None else found.replace("#", layer[1])) + leaf
