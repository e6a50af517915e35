"""Data sources, the device store and the ledger."""
