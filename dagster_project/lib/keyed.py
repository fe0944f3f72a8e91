"""Keyed hashes, made here and not in SQL, so that the key is in no query log."""

import hashlib
import hmac
from collections.abc import Callable, Iterable


def hasher(key: bytes, length: int = 24) -> Callable[[str], str]:
    """A function that gives HMAC-SHA-256 of a value under the key, as its first `length` hexadecimal digits."""
    template = hmac.new(key, digestmod=hashlib.sha256)

    def hashed(value: str) -> str:
        digest = template.copy()
        digest.update(value.encode())
        return digest.hexdigest()[:length]

    return hashed


def tokens(key: bytes, values: Iterable[str], length: int = 24) -> list[str]:
    """HMAC-SHA-256 of each value under the key, as its first `length` hexadecimal digits."""
    return list(map(hasher(key, length), values))
