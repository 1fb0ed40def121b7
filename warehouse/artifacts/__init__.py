"""The artifact store: immutable, versioned folders on a file system, who made them from what, and their removal.

It imports nothing else of the house, and neither DuckDB nor torch, so that the feature store may use it too.

    store        Store: publish a version, mark it, forget it
    reader       StoreReader: find the current version, verify it
    artifact     what names a version, and what decides its bytes
    manifest     what a version says of itself, typed
    environment  what makes versions: packages, commit, device
    staging      folders of unfinished work, and the lock of a store
    history      which version was current from when to when
    lineage      which version was made from which
    garbage      which versions nobody needs
    hashes       hashes of raw files, remembered

Beside it stands what both rooms would else have twice:

    durable      files that are there whole or not at all
    files        opening files of strangers, and the hash of one
    locks        locks on files
    threads      the cores of this process, and work shared out among threads
    processes    how a process ends, and those that it has started
    progress     how work says how far it is
    http         what web servers say
    schema       how a table is declared
"""
