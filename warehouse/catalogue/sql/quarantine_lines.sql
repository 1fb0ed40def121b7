-- The lines of one kind of raw file.
SELECT domain, $file AS file, line, reason, raw
FROM $quarantine
