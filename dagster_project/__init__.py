"""Onefold: a customer data platform that lives in a data warehouse."""
