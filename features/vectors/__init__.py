"""Embeddings: an encoder encodes each content once, and the vectors become tables with the encoder's identity."""
