"""The sample catalogue: a seeded generator of raw files whose signals are known, because the generator put them there.

    write_sample(raw, seed=0, size="demo")

writes three source and two target domains (`DOMAINS`) in the raw layout of Amazon Review 2018. This package contains
the product space, the pictures and texts that are drawn from it, the people who buy, and the writing of the files. The
pipeline reads the files like those of any real category.
"""

from features.sample.files import DomainSummary, SampleSummary, Size, write_sample
from features.sample.products import DOMAINS, SampleDomain

__all__ = ["DOMAINS", "DomainSummary", "SampleDomain", "SampleSummary", "Size", "write_sample"]
