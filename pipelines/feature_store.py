"""The feature store of a data folder: the place of its artifacts, of its copies, and the source of histories."""

from typing import Any

from features.lookup.store import FeatureStore
from features.lookup.views import list_views
from pipelines.data_folder.folder import DataFolder
from warehouse.catalogue.histories import StoredHistories


def feature_store(data_folder: DataFolder) -> FeatureStore:
    """Look-ups in the current artifacts of the data folder."""
    return FeatureStore(data_folder.store.require, data_folder.cache, StoredHistories(data_folder.store))


def listing(data_folder: DataFolder, domain: str | None = None) -> list[dict[str, Any]]:
    """The built feature views (:func:`features.lookup.views.list_views`) of one domain or of all domains."""
    settings = data_folder.settings
    if domain is not None:
        settings.domain(domain)  # raises an error if it is unknown
    return list_views(data_folder.store.whole, sorted(settings.domains) if domain is None else [domain])
