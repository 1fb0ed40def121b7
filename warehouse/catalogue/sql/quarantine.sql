-- Every line of every raw file that could not be read.
CREATE VIEW main.quarantine AS
$parts
