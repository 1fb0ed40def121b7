"""What users had rated before a moment, directly from core/interactions: one query for any number of users."""

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import duckdb
import pyarrow as pa

from warehouse.artifacts.contract import ArtifactStore
from warehouse.catalogue.macros import MACROS
from warehouse.duck import Engine, connect, execute, pattern, table
from warehouse.errors import DataError

__all__ = ["StoredHistories"]

Moment = int | float | str | date

_COLUMNS = MACROS["main/histories"].columns
_COLUMNS = _COLUMNS.remove(_COLUMNS.get_field_index("rated_at"))


class StoredHistories:
    """The histories of the users of a store's domains."""

    def __init__(self, store: ArtifactStore, engine: Engine | None = None) -> None:
        self._store = store
        self._engine = engine or Engine()

    def histories(self, domain: str, users: Sequence[str], as_of: Moment | Sequence[Moment]) -> pa.Table:
        """One row for each of `users`, in their order and with repeats: what they had rated strictly before a moment.

        The columns are those of the catalogue's histories, without its TIMESTAMPs: user_id, and the lists item_ids,
        times (Unix seconds UTC) and ratings in the order of (time, position). The lists are empty if nothing was rated
        before the moment.

        Args:
            domain: a domain with core/interactions.
            users: user ids.
            as_of: one moment for all users, or one for each: Unix seconds, a date (its first second), a datetime, or a
                datetime as text; without an offset it is UTC.

        Raises:
            StoreError: there is no such artifact.
            DataError: the numbers of moments and users differ, or a moment is invalid.
        """
        one = isinstance(as_of, str) or not isinstance(as_of, Iterable)
        moments = [as_of] * len(users) if one else list(cast(Iterable[Moment], as_of))
        if len(moments) != len(users) or None in moments:
            raise DataError(
                f"{len(moments)} moments for {len(users)} users: give one moment for all users, or one for each user"
            )
        bound = {
            "interactions": pattern(self._store.require("core/interactions", domain).main),
            "users": list(users),
            "moments": [str(moment) for moment in moments],
        }
        with TemporaryDirectory() as folder, connect(self._engine, Path(folder)) as connection:
            execute(connection, "macro_unix_seconds")
            try:
                found = table(connection, "histories_of_users", bound)
            except duckdb.DataError as error:
                raise DataError(f"not a moment: {error}; give Unix seconds, a date or a time") from error
        return found.cast(_COLUMNS)
