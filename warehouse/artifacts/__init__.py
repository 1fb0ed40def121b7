"""The artifact store: immutable, versioned folders, their lineage, and their removal.

It imports no other package of the project, and neither DuckDB nor torch, so that the feature store can use it too.

    contract     ArtifactStore: what every store does
    opened       the store at a place: a folder, or a bucket
    store        Store, in a folder: publish a version, mark it, forget it
    reader       StoreReader: find the current version, verify it
    objects      Bucket: the same in a bucket of an object store
    artifact     the names of a version, and the recipe that decides its bytes
    manifest     the typed manifest of a version
    environment  the environment that makes versions: packages, commit, device
    staging      folders of unfinished work, and the lock of a store
    history      when each version was current
    lineage      which version was made from which
    garbage      versions in a folder that are not needed any more
    hashes       cached hashes of raw files

It also contains the modules that the warehouse and the feature store share:

    durable      files that are complete or absent
    files        opening files from strangers, and hashing a file
    locks        locks on files
    threads      the cores of this process, and work shared among threads
    processes    ending this process and the processes that it has started
    progress     the progress callback of long work
    http         the replies of web servers
    schema       the declaration of a table
"""
