"""Writes the title and description of a product, with the varied words that sellers use.

The text names every attribute except the trim. The words and their order are drawn, so that a model can learn from the
text although it is not one template.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from features.sample.products import Product

COLOUR_WORDS: Final = {
    "red": ("red", "crimson", "scarlet", "cherry red"),
    "orange": ("orange", "tangerine", "apricot"),
    "yellow": ("yellow", "lemon", "sunny yellow"),
    "green": ("green", "emerald", "fern green"),
    "turquoise": ("turquoise", "teal", "aqua"),
    "blue": ("blue", "navy", "cobalt blue"),
    "purple": ("purple", "violet", "plum"),
    "pink": ("pink", "rose", "blush pink"),
    "grey": ("grey", "gray", "slate"),
}
PATTERN_WORDS: Final = {
    "plain": ("plain", "solid", "unpatterned"),
    "striped": ("striped", "stripes", "stripy"),
    "dotted": ("dotted", "polka dot", "spotted"),
    "checked": ("checked", "chequered", "checkered"),
    "zigzag": ("zigzag", "chevron", "zig-zag"),
}
MATERIAL_WORDS: Final = {
    "glossy": ("glossy", "high-gloss", "shiny lacquered"),
    "matte": ("matte", "soft-touch", "velvety matte"),
    "wood": ("wooden", "beech wood", "hardwood"),
    "metal": ("metal", "brushed steel", "aluminium"),
}
KIND_WORDS: Final = {
    "mug": ("mug", "coffee mug", "tea cup"),
    "kettle": ("kettle", "tea kettle", "stovetop kettle"),
    "pan": ("pan", "frying pan", "skillet"),
    "spatula": ("spatula", "slotted turner"),
    "bowl": ("bowl", "salad bowl", "serving bowl"),
    "spoon": ("spoon", "serving spoon"),
    "knife": ("knife", "chef's knife", "kitchen knife"),
    "board": ("board", "cutting board", "chopping board"),
    "jar": ("jar", "storage jar", "canister"),
    "flowerpot": ("flowerpot", "planter", "plant pot"),
    "watering can": ("watering can", "garden watering can"),
    "spade": ("spade", "garden shovel"),
    "rake": ("rake", "leaf rake"),
    "glove": ("glove", "gardening gloves", "work gloves"),
    "boot": ("boot", "rain boots", "wellington boots"),
    "lantern": ("lantern", "garden lantern"),
    "birdhouse": ("birdhouse", "nesting box"),
    "parasol": ("parasol", "garden umbrella", "sunshade"),
    "ball": ("ball", "match ball", "training ball"),
    "racket": ("racket", "tennis racquet"),
    "jersey": ("jersey", "sports shirt", "training tee"),
    "cap": ("cap", "baseball cap"),
    "sneaker": ("sneaker", "running shoes", "trainers"),
    "dumbbell": ("dumbbell", "hand weight"),
    "skateboard": ("skateboard", "cruiser board"),
    "helmet": ("helmet", "bike helmet"),
    "flask": ("flask", "water bottle", "drinking bottle"),
    "teddy bear": ("teddy bear", "cuddly bear"),
    "kite": ("kite", "flying kite"),
    "train": ("train", "toy locomotive"),
    "car": ("car", "toy car"),
    "boat": ("boat", "toy sailboat"),
    "rocket": ("rocket", "toy spaceship"),
    "duck": ("duck", "bath duck"),
    "robot": ("robot", "toy robot"),
    "spinning top": ("spinning top", "whirling top"),
    "pencil": ("pencil", "drawing pencil"),
    "notebook": ("notebook", "spiral notepad", "journal"),
    "lamp": ("lamp", "desk lamp"),
    "stapler": ("stapler", "desktop stapler"),
    "scissors": ("scissors", "paper shears"),
    "folder": ("folder", "file folder"),
    "clock": ("clock", "alarm clock"),
    "calculator": ("calculator", "pocket calculator"),
    "paperclip": ("paperclip", "jumbo paper clip"),
}

_TITLES = (
    "{brand} {pattern} {colour} {kind}",
    "{brand} {kind}, {colour}, {pattern}",
    "{colour} {kind} by {brand} - {pattern} design",
    "{brand} {kind} in {colour} with {pattern} finish",
    "{pattern} {kind} ({colour}) | {brand}",
    "{brand} {material} {kind}, {pattern} {colour}",
)
_ABOUT = (
    "{material} {kind} in {colour}, {pattern} all over.",
    "A {pattern} {colour} {kind} with a {material} surface.",
    "Made by {brand}: {material}, {colour}, {pattern}.",
    "This {kind} comes in {material} {colour}; the look is {pattern}.",
)
_CHATTER = (
    "Makes a thoughtful gift for friends and family.",
    "Ships in recycled packaging.",
    "Easy to clean and built to last.",
    "Two year warranty included.",
    "Our customers' favourite of the season.",
    "Designed for everyday use at home or on the road.",
    "Please allow slight differences between batches.",
)


@dataclass(frozen=True)
class ProductText:
    """The text of a seller: the title, and the description in fragments."""

    title: str
    description: tuple[str, ...]


def write_text(product: Product, rng: np.random.Generator) -> ProductText:
    """A title (brand, kind, colour, pattern, sometimes material) and one to three sentences."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    def words() -> dict[str, str]:
        return {
            "kind": pick(KIND_WORDS[product.kind]),
            "colour": pick(COLOUR_WORDS[product.colour]),
            "pattern": pick(PATTERN_WORDS[product.pattern]),
            "material": pick(MATERIAL_WORDS[product.material]),
            "brand": product.brand,
        }

    title = pick(_TITLES).format(**words())
    about = pick(_ABOUT).format(**words())
    chatter = [_CHATTER[int(i)] for i in rng.permutation(len(_CHATTER))[: int(rng.integers(3))]]
    return ProductText(title[0].upper() + title[1:], (about[0].upper() + about[1:], *chatter))
