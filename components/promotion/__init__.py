"""Which version is champion, why, since when: the gate, the registry, the ledger."""
