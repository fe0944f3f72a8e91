"""Keyed hashes, made here and not in SQL, so that the key is in no query log."""

import hashlib
import hmac
from collections.abc import Iterable


def tokens(key: bytes, values: Iterable[str], length: int = 24) -> list[str]:
    """HMAC-SHA-256 of each value under the key, as its first `length` hexadecimal digits."""
    template = hmac.new(key, digestmod=hashlib.sha256)
    result = []
    for value in values:
        digest = template.copy()
        digest.update(value.encode())
        result.append(digest.hexdigest()[:length])
    return result
