"""The sample catalogue: a seeded generator of raw files whose signals are known, because it put them there.

    write_sample(raw, seed=0, size="demo")

writes three source and two target domains (`DOMAINS`) in the raw layout of Amazon Review 2018. What lives
here: the product space, the pictures and texts drawn from it, the people who buy, and the files. What does
not: reading the files back, which is the pipeline's work, as with any real category.
"""

from features.sample.files import DomainSummary, SampleSummary, Size, write_sample
from features.sample.products import DOMAINS, SampleDomain

__all__ = ["DOMAINS", "DomainSummary", "SampleDomain", "SampleSummary", "Size", "write_sample"]
