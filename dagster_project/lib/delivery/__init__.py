"""Delivery of audiences: what is sent where is fixed in the ledger first, then sent, then acknowledged."""
