-- What do the lines in quarantine look like?
-- $each = 2: number of lines for each domain, file and reason
SELECT domain, file, reason, line, raw[:60] AS raw
FROM quarantine
QUALIFY row_number() OVER (PARTITION BY domain, file, reason ORDER BY line) <= $each
ORDER BY domain, file, reason, line
