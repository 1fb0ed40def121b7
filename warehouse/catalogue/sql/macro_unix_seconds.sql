-- Every kind of moment is first cast to text. A cast of text to TIMESTAMP ignores an offset, and a cast to TIMESTAMPTZ
-- takes text without an offset as local time; so the second is used only if the text has an offset. Fractions are
-- rounded up: a whole second is before a moment exactly if it is before the moment rounded up.
CREATE MACRO main.unix_seconds(moment) AS
    ceil(
        coalesce(
            TRY_CAST(moment::VARCHAR AS DOUBLE),
            CASE
                WHEN regexp_matches(moment::VARCHAR, ':[0-9]{2}([.][0-9]+)? ?[-+A-Za-z]')
                    THEN epoch(moment::VARCHAR::TIMESTAMPTZ)
                ELSE epoch(moment::VARCHAR::TIMESTAMP)
            END
        )
    )::BIGINT
