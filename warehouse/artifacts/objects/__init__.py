"""The artifact store in a bucket of an object store: S3 and what speaks it, Google Cloud Storage, Azure.

    client   requests to the bucket, and their errors in words
    layout   the names of the objects
    leases   what running processes read and build, and the server's clock
    doom     whether a version may be removed: the one object that decides it
    cache    the local folder that holds the files of versions
    terms    what everybody who uses a store goes by: its format and its periods
    shared   what machines share of their caches
    reader   BucketReader: finding and verifying versions
    store    Bucket: publishing, marking, holding, forgetting
    garbage  collecting what nobody needs, in two looks
    push     copying a store in a folder into a bucket
    pull     bringing tables to this machine

It needs obstore (the extra `store`). docs/decisions/0024 says why nothing is lost, however many processes work at once.
"""
