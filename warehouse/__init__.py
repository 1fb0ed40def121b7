"""From raw files to sequences and to the analysts' catalogue; the artifact store."""
