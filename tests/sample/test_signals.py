"""Each signal is in the data: text, picture, order and time, found by predictors anyone can read.

Leave-one-out: the last purchase of every user is to be ranked among all items of the domain that the user
has not bought; everything that a predictor learns, it learns from the purchases before it. The five domains
are pooled.
"""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from features.sample import DOMAINS
from features.sample.files import draw_market
from features.sample.people import GAP_DAYS, MOODS, liking, next_purchase

pytestmark = pytest.mark.long

Array = npt.NDArray[np.float64]

_SHARPNESS = 5.0  # what a unit of cosine is worth in log-odds, the same in every predictor
_BUCKETS = (6, 25)  # days: short, middling and long gaps


def _gap_bucket(days: int) -> int:
    return int(np.searchsorted(_BUCKETS, days, side="right"))


@dataclass(frozen=True)
class Case:
    """One domain, coded: N items, their unit vectors, and histories with the last purchase held out."""

    kinds: npt.NDArray[np.int64]
    vectors: dict[str, Array]
    histories: list[list[int]]
    days: list[list[int]]
    labels: list[int]

    def ndcg(self, scores: list[Array]) -> Array:
        """NDCG@10 of every user."""
        gains = []
        for history, label, score in zip(self.histories, self.labels, scores, strict=True):
            score = score.copy()
            score[history] = -np.inf
            rank = 1 + int((score > score[label]).sum()) + int((score == score[label]).sum() - 1) / 2
            gains.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
        return np.array(gains)

    def popularity(self) -> list[Array]:
        counts = Counter(item for history in self.histories for item in history)
        score = np.array([float(counts[item]) for item in range(len(self.kinds))])
        return [score] * len(self.labels)

    def taste(self, modality: str) -> list[Array]:
        """Closeness to the mean vector of the history, by one modality."""
        vectors = self.vectors[modality]
        profiles = [vectors[history].mean(0) for history in self.histories]
        return [_SHARPNESS * vectors @ (profile / np.linalg.norm(profile)) for profile in profiles]

    def both_tastes(self) -> list[Array]:
        return [a + b for a, b in zip(self.taste("text"), self.taste("picture"), strict=True)]

    def transitions(self, timed: bool) -> Array:
        """Log-odds [bucket, last kind, next kind] from all steps inside the histories."""
        kinds = int(self.kinds.max()) + 1
        counts = np.full((3, kinds, kinds), 0.5)
        for history, days in zip(self.histories, self.days, strict=True):
            for step in range(1 if timed else 0, len(history) - 1):
                bucket = _gap_bucket(days[step] - days[step - 1]) if timed else slice(None)
                counts[bucket, self.kinds[history[step]], self.kinds[history[step + 1]]] += 1
        return np.log(counts / counts.sum(-1, keepdims=True))

    def with_next_kind(self, log_odds: list[Array]) -> list[Array]:
        return [taste + kind[self.kinds] for taste, kind in zip(self.both_tastes(), log_odds, strict=True)]

    def after_any(self) -> list[Array]:
        """The bag of history: what follows each thing bought, averaged, whichever came last."""
        table = self.transitions(timed=False)[0]
        return self.with_next_kind([np.log(np.exp(table[self.kinds[h]]).mean(0)) for h in self.histories])

    def after_last(self) -> list[Array]:
        table = self.transitions(timed=False)[0]
        return self.with_next_kind([table[self.kinds[history[-1]]] for history in self.histories])

    def after_last_and_gap(self) -> list[Array]:
        table = self.transitions(timed=True)
        return self.with_next_kind(
            [
                table[_gap_bucket(days[-1] - days[-2]), self.kinds[history[-1]]]
                for history, days in zip(self.histories, self.days, strict=True)
            ]
        )


@pytest.fixture(scope="module")
def cases(demo, read_domain, sample_clip) -> list[Case]:
    return [_case(demo.raw, domain.name, read_domain, sample_clip) for domain in DOMAINS]


def _case(raw, name, read_domain, sample_clip) -> Case:
    domain = read_domain(raw, name)
    code = {asin: place for place, asin in enumerate(domain.items)}
    kind_names = sorted({record["category"][-1] for record in domain.items.values()})
    texts = [_text(record) for record in domain.items.values()]
    pictures = [_picture(raw, record) for record in domain.items.values()]
    seen = np.zeros((len(code), sample_clip.get_embedding_dimension()))
    shown = [place for place, picture in enumerate(pictures) if picture is not None]
    seen[shown] = sample_clip.encode([pictures[place] for place in shown], batch_size=64)
    return Case(
        kinds=np.array([kind_names.index(record["category"][-1]) for record in domain.items.values()]),
        vectors={"text": _whitened(sample_clip.encode(texts, batch_size=64)), "picture": _whitened(seen)},
        histories=[[code[asin] for asin, _ in history[:-1]] for history in domain.histories.values()],
        days=[[day for _, day in history[:-1]] for history in domain.histories.values()],
        labels=[code[history[-1][0]] for history in domain.histories.values()],
    )


def _text(record) -> str:
    description = record["description"]
    return f"{record['title']}. {description if isinstance(description, str) else ' '.join(description)}"


def _picture(raw, record) -> Image.Image | None:
    urls = record.get("imageURL") or record.get("image") or []
    try:
        with Image.open(raw / urls[0]) as image:
            return image.convert("RGB") if image.width > 1 else None
    except (IndexError, OSError):
        return None


def _whitened(vectors: npt.NDArray[np.float32] | Array) -> Array:
    """Unit vectors with every direction of like weight, so that no attribute counts for its size alone.

    The directions are those of the domain's items themselves; a missing vector stays zero.
    """
    present = np.abs(vectors).sum(1) > 0
    centred = vectors[present] - vectors[present].mean(0)
    _, spread, directions = np.linalg.svd(centred / np.sqrt(len(centred)), full_matrices=False)
    white = np.zeros((len(vectors), len(directions)))
    white[present] = centred @ directions.T / np.sqrt(spread**2 + 0.1 * (spread**2).mean())
    return np.asarray(white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-9))


def _margin(better: list[Array], worse: list[Array]) -> float:
    """Mean difference of paired outcomes, in standard errors."""
    difference = np.concatenate(better) - np.concatenate(worse)
    return float(difference.mean() / (difference.std(ddof=1) / np.sqrt(len(difference))))


def test_each_signal_adds(cases):
    ndcg = {
        "popularity": [case.ndcg(case.popularity()) for case in cases],
        "text": [case.ndcg(case.taste("text")) for case in cases],
        "picture": [case.ndcg(case.taste("picture")) for case in cases],
        "both": [case.ndcg(case.both_tastes()) for case in cases],
        "bag": [case.ndcg(case.after_any()) for case in cases],
        "order": [case.ndcg(case.after_last()) for case in cases],
        "time": [case.ndcg(case.after_last_and_gap()) for case in cases],
    }
    steps = (
        ("text", "popularity"),
        ("picture", "popularity"),
        ("both", "text"),
        ("both", "picture"),
        ("order", "bag"),
        ("time", "order"),
    )
    figures = {name: round(float(np.concatenate(values).mean()), 4) for name, values in ndcg.items()}
    margins = {f"{better} over {worse}": _margin(ndcg[better], ndcg[worse]) for better, worse in steps}
    assert all(margin > 4 for margin in margins.values()), (figures, margins)


def test_the_best_possible_recommender_is_far_above_popularity():
    """The generator's own chances, against counting: HR@10 of the last purchase."""
    best, counted = [], []
    for domain in DOMAINS:
        market = draw_market(domain, size="demo")
        regulars = [customer for customer in market.customers if len(customer.purchases) >= 5]
        counts = Counter(p.item for customer in regulars for p in customer.purchases[:-1])
        popular = np.array([counts[item] for item in range(len(market.asins))])
        for customer in regulars:
            *history, last = customer.purchases
            for hits, score in (
                (best, next_purchase(market.shop, liking(market.shop, customer.taste), history)),
                (counted, popular),
            ):
                hits.append((score > score[last.item]).sum() < 10)
    assert np.mean(best) > 0.5
    assert 0.05 < np.mean(counted) < 0.2


def test_the_gap_before_the_last_purchase_decides_what_comes_next():
    """The same person and the same last thing: only the mood, which the gap gives away, differs."""
    shop = (market := draw_market(DOMAINS[0], size="demo")).shop
    accessory, same = [], []
    for customer in market.customers[:100]:
        last = customer.purchases[-1]
        liked = liking(shop, customer.taste)
        chance = {mood: next_purchase(shop, liked, [replace(last, mood=mood)]) for mood in MOODS}
        kind = shop.kind[last.item]
        accessory.append([chance[mood][shop.kind == shop.accessory[kind]].sum() for mood in MOODS])
        same.append([chance[mood][shop.kind == kind].sum() for mood in MOODS])
    project, browsing, restocking = np.mean(accessory, axis=0)
    assert project > 0.8
    assert max(browsing, restocking) < 0.2
    project, browsing, restocking = np.mean(same, axis=0)
    assert restocking > 0.8
    assert max(browsing, project) < 0.2


def test_gaps_tell_the_moods_apart():
    ranges = sorted(GAP_DAYS.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    assert [_gap_bucket(days) for mood in MOODS for days in (GAP_DAYS[mood][0], GAP_DAYS[mood][1] - 1)] == [
        0, 0, 1, 1, 2, 2,
    ]  # fmt: skip
