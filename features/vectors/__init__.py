"""Embeddings: contents through an encoder, once each, into tables with an identity."""
