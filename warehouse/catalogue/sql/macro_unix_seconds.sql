-- Over text, because that one cast takes every kind of moment. A cast to TIMESTAMP ignores an offset, one to
-- TIMESTAMPTZ takes text without one for the reader's own time zone: so the text decides which of the two it is.
-- Rounded up: a whole second is before a moment exactly if it is before the next whole second.
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
