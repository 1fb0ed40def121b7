"""Simulates people, their tastes and their purchases one after the other, which the sample's ratings are made from.

A person has a taste for the attributes that all domains share. A person also has a mood that lasts for a while, and
that shows only in the time between purchases:

- `project`: the next purchases come within days, and are mostly the accessory of the last item, in the same colour;
- `browsing`: they come after one to three weeks, and depend only on taste;
- `restocking`: they come after one to three months, and mostly replace the last item by one of the same kind and brand.

The mood of a purchase decides the gap BEFORE it, and which item is bought AFTER it. So the gap before the last known
purchase tells what comes next, and a model can predict a purchase without knowing its time.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.sample.products import ATTRIBUTES, Product, SampleDomain, draw_products

MOODS: Final = ("project", "browsing", "restocking")
GAP_DAYS: Final = {"project": (0, 5), "browsing": (8, 22), "restocking": (30, 91)}
"""Days since the last purchase, from (inclusive) and to (exclusive), in each mood. They do not overlap."""

_STAY = 0.7  # chance that the mood lasts to the next purchase; otherwise a new one is drawn, perhaps the same
_FOLLOW = 0.9  # chance that a purchase follows its project or restocking; otherwise only taste decides
_LIKED: Final = {
    "colour": (2, 3.0),
    "pattern": (1, 2.5),
    "material": (1, 2.2),
    "trim": (1, 3.5),
    "brand": (3, 3.0),
}
"""For each attribute: how many of its values a person likes, and what a liked value adds to the log-odds of buying."""
_POPULARITY = 0.9  # exponent of Zipf's law over the items of a domain
_KIND_BONUS = 6.0  # log-odds of the kind that a project or a restocking asks for
_MATCH_BONUS = 1.6  # log-odds of the last item's colour (project) or brand (restocking)

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Purchase:
    """One purchase: the item's index in its domain, the days since the first purchase, and the mood."""

    item: int
    day: int
    mood: str


@dataclass(frozen=True)
class Shop:
    """A domain with its products, as arrays over its N items.

    `popularity` [N] is in log-odds; `attributes` maps each attribute to the items' codes [N]; `kind` [N] and
    `accessory` [kinds] are codes of kinds.
    """

    domain: SampleDomain
    products: tuple[Product, ...]
    popularity: Logits
    attributes: dict[str, npt.NDArray[np.int64]]
    kind: npt.NDArray[np.int64]
    accessory: npt.NDArray[np.int64]


Taste = dict[str, Logits]
"""For each attribute, what each of its values adds to the log-odds of buying."""


def open_shop(domain: SampleDomain, items: int, rng: np.random.Generator) -> Shop:
    """A domain with `items` products, whose popularity has a heavy tail."""
    products = tuple(draw_products(domain.kinds, items, rng))
    kinds = domain.kinds
    return Shop(
        domain=domain,
        products=products,
        popularity=-_POPULARITY * np.log(1.0 + rng.permutation(items)),
        attributes={
            name: np.array([values.index(getattr(product, name)) for product in products])
            for name, values in ATTRIBUTES.items()
        },
        kind=np.array([kinds.index(product.kind) for product in products]),
        accessory=np.array([kinds.index(domain.accessory[kind]) for kind in kinds]),
    )


def draw_taste(rng: np.random.Generator) -> Taste:
    """A person's taste: a few liked values in every attribute. It is the same in all domains."""
    taste: Taste = {}
    for name, values in ATTRIBUTES.items():
        liked, strength = _LIKED[name]
        taste[name] = np.zeros(len(values))
        taste[name][rng.choice(len(values), liked, replace=False)] = strength
    return taste


def liking(shop: Shop, taste: Taste) -> Logits:
    """How much a person likes every item [N], in log-odds: the item's popularity plus the person's taste."""
    return shop.popularity + sum(taste[name][codes] for name, codes in shop.attributes.items())


def next_purchase(shop: Shop, liked: Logits, history: list[Purchase]) -> Logits:
    """The probability [N] of every item to be bought next, after a non-empty history; `liked` comes from `liking`.

    No item is bought twice. The simulation draws from exactly these probabilities, so no recommender can rank better
    than they do.
    """
    last, mood = history[-1].item, history[-1].mood
    bought = [purchase.item for purchase in history]
    chance = _softmax(liked, bought)
    if mood == "browsing":
        return chance
    if mood == "project":
        wanted, matching = shop.accessory[shop.kind[last]], shop.attributes["colour"]
    else:
        wanted, matching = shop.kind[last], shop.attributes["brand"]
    asked = liked + _KIND_BONUS * (shop.kind == wanted) + _MATCH_BONUS * (matching == matching[last])
    return _FOLLOW * _softmax(asked, bought) + (1 - _FOLLOW) * chance


def draw_purchases(shop: Shop, taste: Taste, count: int, rng: np.random.Generator) -> list[Purchase]:
    """`count` purchases of one person, oldest first, starting on day 0."""

    def pick(chance: Logits) -> int:
        return int(rng.choice(len(chance), p=chance))

    liked = liking(shop, taste)
    history = [Purchase(pick(_softmax(liked, [])), 0, MOODS[int(rng.integers(len(MOODS)))])]
    while len(history) < count:
        item = pick(next_purchase(shop, liked, history))
        mood = history[-1].mood
        if rng.random() > _STAY:
            mood = MOODS[int(rng.integers(len(MOODS)))]
        day = history[-1].day + int(rng.integers(*GAP_DAYS[mood]))
        history.append(Purchase(item, day, mood))
    return history


def _softmax(logits: Logits, bought: list[int]) -> Logits:
    logits = logits.copy()
    logits[bought] = -np.inf
    weights: Logits = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights
