"""The errors that a person is meant to read."""


class OnefoldError(Exception):
    """Something a user can put right; the message names the thing, the place and the remedy."""
