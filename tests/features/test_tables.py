from features.tables import ACCEPTS, TABLES


def test_every_column_says_what_it_is() -> None:
    for name, schema in (ACCEPTS | TABLES).items():
        for field in schema:
            assert field.metadata[b"comment"], (name, field.name)
