"""The product space of the sample: the kinds of products, the attributes that all domains share, and the domains.

The other modules of this package make pictures, texts, people and files from it.

Kind, colour, pattern and material are visible in the picture and in the text. The trim (the rim around the object) is
only in the picture, and the brand only in the text. So neither modality makes the other redundant.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

COLOURS: Final = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "grey")
PATTERNS: Final = ("plain", "striped", "dotted", "checked", "zigzag")
MATERIALS: Final = ("glossy", "matte", "wood", "metal")
TRIMS: Final = ("black", "white", "gold")
BRANDS: Final = (
    "Alderby", "Brightwell", "Corvane", "Dunmore", "Elmhurst", "Fennick",
    "Garrow", "Hollis", "Ivarra", "Juniper & Co", "Kestrel", "Lowland",
)  # fmt: skip


ATTRIBUTES: Final = {
    "colour": COLOURS,
    "pattern": PATTERNS,
    "material": MATERIALS,
    "trim": TRIMS,
    "brand": BRANDS,
}
"""The attributes that all domains share, which are all except the kind, with their values."""


@dataclass(frozen=True)
class SampleDomain:
    """One category of the sample catalogue.

    `role` is `source` (pre-training) or `target` (fine-tuning). `accessory` maps each kind of the domain to the kind
    that is bought after it.
    """

    name: str
    role: Literal["source", "target"]
    accessory: dict[str, str]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds sold in this domain, in the order of declaration."""
        return tuple(self.accessory)


DOMAINS: Final = (
    SampleDomain(
        "Sample_Kitchen",
        "source",
        {
            "kettle": "mug",
            "mug": "spoon",
            "spoon": "bowl",
            "bowl": "kettle",
            "pan": "spatula",
            "spatula": "jar",
            "jar": "pan",
            "knife": "board",
            "board": "knife",
        },
    ),
    SampleDomain(
        "Sample_Garden",
        "source",
        {
            "flowerpot": "watering can",
            "watering can": "flowerpot",
            "spade": "glove",
            "glove": "rake",
            "rake": "boot",
            "boot": "spade",
            "parasol": "lantern",
            "lantern": "birdhouse",
            "birdhouse": "parasol",
        },
    ),
    SampleDomain(
        "Sample_Sports",
        "source",
        {
            "racket": "ball",
            "ball": "jersey",
            "jersey": "cap",
            "cap": "racket",
            "skateboard": "helmet",
            "helmet": "skateboard",
            "sneaker": "flask",
            "flask": "dumbbell",
            "dumbbell": "sneaker",
        },
    ),
    SampleDomain(
        "Sample_Toys",
        "target",
        {
            "rocket": "robot",
            "robot": "rocket",
            "train": "car",
            "car": "spinning top",
            "spinning top": "train",
            "boat": "duck",
            "duck": "boat",
            "kite": "teddy bear",
            "teddy bear": "kite",
        },
    ),
    SampleDomain(
        "Sample_Office",
        "target",
        {
            "pencil": "notebook",
            "notebook": "calculator",
            "calculator": "pencil",
            "folder": "stapler",
            "stapler": "paperclip",
            "paperclip": "folder",
            "lamp": "clock",
            "clock": "scissors",
            "scissors": "lamp",
        },
    ),
)

KINDS: Final = tuple(kind for domain in DOMAINS for kind in domain.kinds)


@dataclass(frozen=True)
class Product:
    """One product: the attributes that its picture and its text are made from."""

    kind: str
    colour: str
    pattern: str
    material: str
    trim: str
    brand: str


def draw_products(kinds: tuple[str, ...], count: int, rng: np.random.Generator) -> list[Product]:
    """Draw `count` products. All `kinds` are equally frequent, up to one product; other attributes are uniform."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    products = [
        Product(
            kinds[index % len(kinds)],
            pick(COLOURS),
            pick(PATTERNS),
            pick(MATERIALS),
            pick(TRIMS),
            pick(BRANDS),
        )
        for index in range(count)
    ]
    return [products[int(i)] for i in rng.permutation(count)]
