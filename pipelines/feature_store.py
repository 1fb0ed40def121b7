"""The feature store over a data folder: where its artifacts lie, where its copies go, who answers for histories."""

from typing import Any

from features.store import FeatureStore
from features.views import list_views
from pipelines.settings import House
from warehouse.histories import StoredHistories


def feature_store(house: House) -> FeatureStore:
    """Look-ups over what is current in the data folder."""
    return FeatureStore(house.store.require, house.cache, StoredHistories(house.store))


def listing(house: House, domain: str | None = None) -> list[dict[str, Any]]:
    """The feature views as they are built (:func:`features.views.list_views`), of one domain or of all."""
    settings = house.settings
    if domain is not None:
        settings.domain(domain)  # an unknown one is an error
    return list_views(house.store.whole, sorted(settings.domains) if domain is None else [domain])
