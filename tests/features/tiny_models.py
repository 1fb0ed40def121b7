"""Models with random weights that stand in for the large ones, each in the layout of its library."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_LIBRARIES: list[Any] = []  # a torch.library.Library takes its operators along when it goes


def define_torchvision_operators() -> None:
    """torchvision is built against CUDA; on a CPU torch its import fails unless these operators are known before."""
    if find_spec("torchvision") is None or _LIBRARIES:
        return
    import torch

    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


define_torchvision_operators()


def write_bare_clip(packed: Path, out: Path) -> Path:
    """A CLIP in sentence-transformers' layout as transformers stores it: without what that library adds."""
    shutil.copytree(packed, out)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (out / name).unlink()
    return out


def write_siglip(out: Path) -> Path:
    """A SigLIP (16 wide, 32 px, 64 tokens) with the files of the published one, SigLIP's tokenizer class named."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessorPil, SiglipModel

    words = ["<pad>", "</s>", "<unk>", "red", "blue", "striped", "mug", "lamp"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    model = SiglipModel(
        SiglipConfig(
            text_config=size | special | {"vocab_size": len(words), "max_position_embeddings": 64},
            vision_config=size | {"image_size": 32, "patch_size": 16},
        )
    )
    model.save_pretrained(out)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>", model_max_length=64
    ).save_pretrained(out)
    change_json(out / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    change_json(out / "preprocessor_config.json", processor_class="SiglipProcessor")
    return out


def write_sentence_model(out: Path) -> Path:
    """A BERT (8 wide) with a pooling module, in the layout of all-MiniLM-L6-v2, with random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "red", "blue", "striped", "mug", "lamp", "a", "and"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    bare = out / "bare"
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **size)).save_pretrained(bare)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(bare)
    model = SentenceTransformer(modules=[Transformer(str(bare)), Pooling(8), Normalize()], device="cpu")
    shutil.rmtree(bare)
    model.save(str(out), create_model_card=False)
    return out


def write_open_clip(out: Path) -> Path:
    """A CLIP of open_clip (12 wide, 32 px, 77 tokens); skips where the extra is not installed."""
    reason = "open_clip needs torchvision, so an environment of its own: make test-open-clip"
    open_clip = pytest.importorskip("open_clip", reason=reason)
    import torch
    from safetensors.torch import save_file

    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    out.mkdir()
    save_file(open_clip.CLIP(**config).state_dict(), out / "open_clip_model.safetensors")
    colours = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    (out / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": colours}))
    return out


def change_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
