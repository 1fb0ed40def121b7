"""People, what they like, and what they buy one after the other: the truth behind the sample's ratings.

What lives here: the simulation of purchases. A person has tastes over the attributes that all domains
share, and a mood that lasts for a while and that only the pace of buying gives away:

- `project`: the next purchases come within days, and are mostly the accessory of the last thing bought, in
  its colour;
- `browsing`: they come after a week or three, and follow taste alone;
- `restocking`: they come after one to three months, and mostly replace the last thing by another of its
  kind and brand.

The mood in which something is bought sets the gap before it; the mood then in force chooses the thing
bought AFTER it. So the gap before the last known purchase says what comes next, and no purchase needs its
own time to be told.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.sample.products import ATTRIBUTES, Product, SampleDomain, draw_products

MOODS: Final = ("project", "browsing", "restocking")
GAP_DAYS: Final = {"project": (0, 5), "browsing": (8, 22), "restocking": (30, 91)}
"""Days since the last purchase, from (inclusive) and to (exclusive), in each mood. They do not overlap."""

_STAY = 0.7  # chance that the mood lasts to the next purchase, before it is drawn afresh
_FOLLOW = 0.9  # chance that a project or a restocking is obeyed, else taste alone decides
_LIKED: Final = {
    "colour": (2, 3.0),
    "pattern": (1, 2.5),
    "material": (1, 2.2),
    "trim": (1, 3.5),
    "brand": (3, 3.0),
}
"""For each attribute: how many values a person likes, and what liking adds to the log-odds of buying."""
_POPULARITY = 0.9  # exponent of Zipf's law over the items of a domain
_KIND_BONUS = 6.0  # log-odds of the kind that a project or a restocking asks for
_MATCH_BONUS = 1.6  # log-odds of the last thing's colour (project) or brand (restocking)

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Purchase:
    """One purchase: the item's index in its domain, days since the first purchase, and the mood in force."""

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
"""Per attribute, what each of its values adds to the log-odds of buying."""


def open_shop(domain: SampleDomain, items: int, rng: np.random.Generator) -> Shop:
    """A domain with `items` products of heavy-tailed popularity."""
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
    """A person's taste: a few liked values in every attribute. It holds in all domains."""
    taste: Taste = {}
    for name, values in ATTRIBUTES.items():
        liked, strength = _LIKED[name]
        taste[name] = np.zeros(len(values))
        taste[name][rng.choice(len(values), liked, replace=False)] = strength
    return taste


def liking(shop: Shop, taste: Taste) -> Logits:
    """What a person thinks of every item [N], in log-odds: its popularity and their taste."""
    return shop.popularity + sum(taste[name][codes] for name, codes in shop.attributes.items())


def next_purchase(shop: Shop, liked: Logits, history: list[Purchase]) -> Logits:
    """Chance [N] of every item to be bought next, after a non-empty history; `liked` is from `liking`.

    Things already bought are not bought again. The simulation draws from this very function, so ranking by
    it is the best that any recommender could do.
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
