"""The feature store: what an item says and looks like, and the vectors of both.

Item text, pictures in WebDataset shards, encoders, embeddings as Parquet, nearest-item search.
Everything here works on files whose layout :mod:`features.tables` declares. SQL, orchestration and the recommendation
model are elsewhere. torch is imported only where an encoder is opened and in the code that feeds it.
"""
