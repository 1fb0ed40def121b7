"""Train the small CLIP that encodes the sample catalogue, and write it as a sentence-transformers folder.

    python -m features.encoders.train_sample_clip --out features/encoders/sample_clip

Products are drawn from the generator's whole product space (all domains). Each gets a fresh text in one of the forms
that an encoder meets: title and description, title alone, description alone, the published template, a raw title with
markup, or a short query such as "striped red mug". There are two losses: the symmetric contrastive loss of CLIP
(Radford et al. 2021, arXiv 2103.00020), and the loss of one linear classifier on the unit vector for each attribute
that the modality shows. The classifiers are discarded after training. They are needed because the contrastive loss
alone would teach the towers to forget what only one modality shows (the trim, the brand), and this is what
recommendation needs from a second modality.

`--seed` determines every random draw. The combinations of kind, colour, pattern and material that are held out for the
figures in `recipe.json` are never trained on.
"""

import argparse
import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import PIL
import sentence_transformers
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CLIPModel as SentenceCLIP
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from features.sample.pictures import SIZE, draw_picture
from features.sample.products import ATTRIBUTES, KINDS, Product, draw_products
from features.sample.texts import COLOUR_WORDS, KIND_WORDS, MATERIAL_WORDS, PATTERN_WORDS, write_text

VALUES: Final = {"kind": KINDS, **ATTRIBUTES}
IN_PICTURE: Final = ("kind", "colour", "pattern", "material", "trim")
IN_TEXT: Final = ("kind", "colour", "pattern", "material", "brand")
_CONTEXT: Final = 77  # positions of the text tower, as in CLIP
_UNSEEN = -100  # the label that cross_entropy does not count


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training. `pictures` are drawn once and reused; texts are drawn anew at every step."""

    seed: int = 0
    steps: int = 1200
    batch: int = 128
    pictures: int = 12_000
    held_out: int = 1000
    learning_rate: float = 1.5e-3
    attribute_weight: float = 2.0
    vocabulary: int = 1600
    width: int = 128
    vision_layers: int = 3
    text_layers: int = 2
    patch: int = 16


def _signature(product: Product) -> tuple[str, str, str, str]:
    return product.kind, product.colour, product.pattern, product.material


def _query(product: Product, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    """A short query (`striped red mug`) and the attributes that it names, which nearly always include the kind."""

    def pick(words: Sequence[str]) -> str:
        return words[0] if rng.random() < 0.5 else words[int(rng.integers(len(words)))]

    words = {
        "pattern": pick(PATTERN_WORDS[product.pattern]),
        "material": pick(MATERIAL_WORDS[product.material]),
        "colour": pick(COLOUR_WORDS[product.colour]),
        "kind": pick(KIND_WORDS[product.kind]),
        "brand": product.brand,
    }
    chance = {"pattern": 0.6, "material": 0.3, "colour": 0.8, "kind": 0.92, "brand": 0.15}
    named = [name for name in words if rng.random() < chance[name]] or ["kind"]
    if rng.random() < 0.3:
        named = [named[int(i)] for i in rng.permutation(len(named))]
    return " ".join(words[name] for name in named), frozenset(named)


def _text(product: Product, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    """A text in one of the forms that an encoder meets, and the attributes that it certainly names."""
    form = rng.random()
    if form < 0.3:
        return _query(product, rng)
    text = write_text(product, rng)
    body = " ".join(text.description)
    in_title = frozenset(("kind", "colour", "pattern", "brand"))
    if form < 0.4:
        return text.title, in_title
    if form < 0.45:
        return f"<b>{text.title}</b> &amp; free shipping<br />", in_title
    if form < 0.55:
        return f"Title: {text.title} ; Brand: {product.brand} ; Description: {body} ; ", frozenset(IN_TEXT)
    if form < 0.65:
        return f"{product.brand}. {body.rstrip(' .')}", frozenset(("brand",))
    return f"{text.title}. {body.rstrip(' .')}", frozenset(IN_TEXT)


def _labels(products: Sequence[Product], names: Sequence[str], named: Sequence[frozenset[str]] | None) -> Tensor:
    """Codes of the attributes `names`, int64 [products, names]; `_UNSEEN` if the text may not name the attribute."""
    return torch.tensor(
        [
            [
                VALUES[name].index(getattr(product, name)) if named is None or name in named[row] else _UNSEEN
                for name in names
            ]
            for row, product in enumerate(products)
        ]
    )


def _tokenizer(settings: TrainingSettings, rng: np.random.Generator) -> CLIPTokenizer:
    """A tokenizer of the same type as CLIP's, with a small vocabulary: all bytes, then merges learned from texts.

    Every byte has two forms (inside a word, at the end of a word), so no text has an unknown token.
    """
    corpus = [_text(product, rng)[0] for product in draw_products(KINDS, 20_000, rng)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=5,
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, learner)
    merges: Any = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=_CONTEXT
    )


def _model(settings: TrainingSettings, tokenizer: CLIPTokenizer) -> CLIPModel:
    tower = {
        "hidden_size": settings.width,
        "intermediate_size": 4 * settings.width,
        "num_attention_heads": 4,
        "projection_dim": settings.width,
    }
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        **tower,
        **special,
        "num_hidden_layers": settings.text_layers,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": _CONTEXT,
    }
    vision = {
        **tower,
        "num_hidden_layers": settings.vision_layers,
        "image_size": SIZE,
        "patch_size": settings.patch,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=settings.width))


class _Student(nn.Module):
    """The CLIP with one linear classifier per modality and attribute on top of its unit vectors."""

    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip
        width = int(clip.visual_projection.out_features)
        self.of_picture = nn.ModuleList(nn.Linear(width, len(VALUES[name])) for name in IN_PICTURE)
        self.of_text = nn.ModuleList(nn.Linear(width, len(VALUES[name])) for name in IN_TEXT)

    def pictures(self, pixels: Tensor) -> Tensor:
        """Unit vectors [B, width] of normalised pixels [B, 3, SIZE, SIZE]."""
        return F.normalize(self.clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    def texts(self, tokens: dict[str, Tensor]) -> Tensor:
        """Unit vectors [B, width] of token ids and mask, each [B, T]."""
        return F.normalize(self.clip.get_text_features(**tokens).pooler_output, dim=-1)


def _attribute_loss(heads: nn.ModuleList, vectors: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the attributes; unit vectors are scaled by 10, so that classifiers can be confident."""
    losses = [
        F.cross_entropy(head(10 * vectors), labels[:, place], ignore_index=_UNSEEN, reduction="sum")
        / (labels[:, place] != _UNSEEN).sum().clamp(min=1)
        for place, head in enumerate(heads)
    ]
    return torch.stack(losses).mean()


def _read(student: _Student, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Unit vectors [texts, width]; texts of similar length are padded together, which saves time."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    vectors = []
    for start in range(0, len(texts), 32):
        some = [texts[row] for row in order[start : start + 32]]
        tokens = tokenizer(some, padding=True, truncation=True, max_length=_CONTEXT, return_tensors="pt")
        vectors.append(student.texts(dict(tokens)))
    return torch.cat(vectors)[torch.tensor(order).argsort()]


@dataclass(frozen=True)
class _Eye:
    """What the image processor does with a picture of the right size: scale to 0..1, subtract the mean, divide."""

    mean: Tensor
    std: Tensor

    def __call__(self, pictures: Tensor) -> Tensor:
        """uint8 [B, SIZE, SIZE, 3] to float32 [B, 3, SIZE, SIZE]."""
        return ((pictures.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)


def _draw(products: Sequence[Product], rng: np.random.Generator) -> Tensor:
    """The pictures of products, uint8 [products, SIZE, SIZE, 3]."""
    return torch.from_numpy(np.stack([np.asarray(draw_picture(product, rng)) for product in products]))


def _held_out_figures(
    student: _Student,
    eye: _Eye,
    tokenizer: CLIPTokenizer,
    products: Sequence[Product],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Retrieval among the held-out products, and how accurately the linear classifiers read each attribute.

    A text may fit several pictures (no text names the trim), so a hit is a product with the same kind, colour, pattern
    and material. Queries name pattern, colour and kind; their hits are products with the same three.
    """
    student.eval()
    pixels = _draw(products, rng)
    texts = [f"{text.title}. {' '.join(text.description)}" for text in (write_text(p, rng) for p in products)]
    queries = [f"{p.pattern} {p.colour} {p.kind}" for p in products]

    with torch.inference_mode():
        seen = student.pictures(eye(pixels))
        read, asked = _read(student, tokenizer, texts), _read(student, tokenizer, queries)
        accuracy = {
            f"{modality} {name}": float((head(10 * vectors).argmax(1) == labels[:, place]).float().mean())
            for modality, heads, names, vectors, labels in (
                ("picture", student.of_picture, IN_PICTURE, seen, _labels(products, IN_PICTURE, None)),
                ("text", student.of_text, IN_TEXT, read, _labels(products, IN_TEXT, None)),
            )
            for place, (name, head) in enumerate(zip(names, heads, strict=True))
        }
    same = np.array([" ".join(_signature(p)) for p in products])
    alike = np.array([" ".join(_signature(p)[:3]) for p in products])

    def hits(query: Tensor, index: Tensor, key: npt.NDArray[np.str_], k: int) -> float:
        best = (query @ index.T).topk(k, dim=1).indices.numpy()
        return float((key[best] == key[:, None]).any(1).mean())

    return {
        "products": len(products),
        "text_to_picture_at_1": round(hits(read, seen, same, 1), 4),
        "text_to_picture_at_5": round(hits(read, seen, same, 5), 4),
        "picture_to_text_at_1": round(hits(seen, read, same, 1), 4),
        "picture_to_text_at_5": round(hits(seen, read, same, 5), 4),
        "query_to_picture_at_1": round(hits(asked, seen, alike, 1), 4),
        "query_to_picture_at_5": round(hits(asked, seen, alike, 5), 4),
        "attribute_accuracy": {name: round(share, 4) for name, share in accuracy.items()},
    }


def _save(clip: CLIPModel, processor: CLIPProcessor, out: Path) -> str:
    """Write a folder that `SentenceTransformer(out)` opens like `clip-ViT-B-32`; return the sha256 of the weights.

    The weights are stored in half precision. The configuration says float32, so they are loaded and used in float32.
    """
    with tempfile.TemporaryDirectory() as folder:
        clip.save_pretrained(folder)
        processor.save_pretrained(folder)
        model = SentenceTransformer(modules=[SentenceCLIP(folder)], device="cpu")
    model.save(str(out), create_model_card=False)
    weights = next(out.rglob("model.safetensors"))
    halves = {name: tensor.half() for name, tensor in load_file(weights).items() if tensor.is_floating_point()}
    save_file(halves, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def train(settings: TrainingSettings, out: Path, report: Callable[[str], None]) -> None:
    """Train with `settings`, write the folder `out` with its `recipe.json`, and `report` lines of progress."""
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    tokenizer = _tokenizer(settings, rng)
    processor = CLIPProcessor(  # type: ignore[no-untyped-call]
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        tokenizer=tokenizer,
    )
    eye = _Eye(
        *(torch.tensor(values) for values in (CLIPImageProcessorPil.image_mean, CLIPImageProcessorPil.image_std))
    )
    student = _Student(_model(settings, tokenizer))

    held_out = draw_products(KINDS, settings.held_out, rng)
    kept_apart = {_signature(product) for product in held_out}
    pool = [p for p in draw_products(KINDS, settings.pictures, rng) if _signature(p) not in kept_apart]
    pictures = _draw(pool, rng)
    report(f"{len(pool)} pictures drawn in {time.monotonic() - started:.0f} s")

    optimiser = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    student.train()
    for step in range(1, settings.steps + 1):
        rows = rng.choice(len(pool), settings.batch, replace=False)
        batch = [pool[int(row)] for row in rows]
        written = [_text(product, rng) for product in batch]
        seen = student.pictures(eye(pictures[rows]))
        read = _read(student, tokenizer, [text for text, _ in written])
        logits = student.clip.logit_scale.exp().clamp(max=100) * seen @ read.T
        target = torch.arange(settings.batch)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        attributes = _attribute_loss(student.of_picture, seen, _labels(batch, IN_PICTURE, None))
        attributes += _attribute_loss(student.of_text, read, _labels(batch, IN_TEXT, [named for _, named in written]))
        optimiser.zero_grad()
        torch.autograd.backward(contrast + settings.attribute_weight * attributes)
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == settings.steps:
            report(
                f"step {step} of {settings.steps}: contrast {contrast.item():.3f}, "
                f"attributes {attributes.item():.3f}, {time.monotonic() - started:.0f} s"
            )

    figures = _held_out_figures(student, eye, tokenizer, held_out, rng)
    sha256 = _save(student.clip, processor, out)
    document = {
        "script": "python -m features.encoders.train_sample_clip",
        "arguments": asdict(settings),
        "versions": _versions(),
        "weights_sha256": sha256,
        "parameters": sum(weight.numel() for weight in student.clip.parameters()),
        "held_out": figures,
    }
    (out / "recipe.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    report(json.dumps(figures, indent=2))


def _versions() -> dict[str, str]:
    """The versions that the weights may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence-transformers": sentence_transformers.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def main() -> None:
    """Command line: every field of `TrainingSettings` is an option."""
    parser = argparse.ArgumentParser(description="Train the small CLIP of the sample catalogue.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, default: %(default)s")
    for field in fields(TrainingSettings):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help="default: %(default)s")
    arguments = vars(parser.parse_args())
    out, threads = arguments.pop("out"), arguments.pop("threads")
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    train(TrainingSettings(**arguments), out, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
