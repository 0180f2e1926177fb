"""Ids: a kind and 144 random bits, as `req_…` or `chatcmpl-…`."""

import os
from base64 import urlsafe_b64encode

_SIZE = 18
"""Bytes an id; divides by 3, so that base64 needs no padding."""
_STOCK = 256
"""Ids for which random bytes are fetched at once: a system call for each would cost a tenth of a request."""

_stock = bytearray()


def new_id(prefix: str) -> str:
    """A fresh id that begins with `prefix`. Unique over all servers and times, and not to be guessed."""
    if not _stock:
        _stock.extend(os.urandom(_SIZE * _STOCK))
    entropy = _stock[-_SIZE:]
    del _stock[-_SIZE:]
    return prefix + urlsafe_b64encode(entropy).decode()
