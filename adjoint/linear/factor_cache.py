"""A small cache of sparse factorizations, found again by the content of the matrix.

The forward and the backward pass of a compiled gradient are separate calls to the host. What joins
them is the matrix itself: its values are compared, and the factors made in the forward pass are
found in the backward pass. Nothing can go stale, and what was evicted is made again; a handle
passed from forward to backward would dangle once its factors were evicted.
"""

import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np


class _Entry(NamedTuple):
    key: Hashable
    signature: bytes
    values: np.ndarray
    factors: Any


class FactorCache:
    """The most recently used factorizations: at most `limit_bytes` (256 MiB) and 32 of them.

    The latest factorization is kept even if it alone is larger than the limit: without it a
    gradient would factorize twice. Safe to use from several threads. The library's one instance is
    `adjoint.factor_cache`.

    Examples
    --------
    >>> import adjoint
    >>> adjoint.factor_cache.set_limit(200_000_000)
    >>> adjoint.factor_cache.clear()
    >>> adjoint.factor_cache.bytes_held
    0
    """

    LARGEST_NUMBER = 32

    def __init__(self, limit_bytes: int = 2**28):
        self._entries: list[_Entry] = []
        self._lock = threading.Lock()
        self.set_limit(limit_bytes)

    def set_limit(self, limit_bytes: int) -> None:
        """Change how many bytes of factors are kept; evicts at once."""
        if limit_bytes < 0:
            raise ValueError(
                f"FactorCache.set_limit: got {limit_bytes} bytes, expected zero or more."
            )
        with self._lock:
            self._limit = limit_bytes
            self._evict()

    def clear(self) -> None:
        """Forget every factorization; they are made again when they are needed."""
        with self._lock:
            self._entries.clear()

    @property
    def bytes_held(self) -> int:
        """Bytes of the factors and matrix values held now, as the factorizations report them."""
        with self._lock:
            return sum(_size(entry) for entry in self._entries)

    def find_or_make(self, key: Hashable, values: np.ndarray, make: Callable[[], Any]) -> Any:
        """The factors of `values` under `key` (pattern and backend), by `make` if none are held."""
        signature = values[:: max(1, values.size // 8)].tobytes()
        with self._lock:
            for position, entry in enumerate(self._entries):
                if (
                    entry.key == key
                    and entry.signature == signature
                    and np.array_equal(entry.values, values)
                ):
                    self._entries.insert(0, self._entries.pop(position))
                    return entry.factors
            # What will have to go goes first, so that its memory serves for the new factors, which
            # are most likely as large as the last ones of their kind.
            self._evict(
                room_for=next((_size(entry) for entry in self._entries if entry.key == key), 0)
            )
        # Made outside the lock: two threads may factorize different matrices at the same time.
        factors = make()
        with self._lock:
            self._entries.insert(0, _Entry(key, signature, values.copy(), factors))
            self._evict()
        return factors

    def _evict(self, room_for: int = 0) -> None:
        held = room_for
        for position, entry in enumerate(self._entries):
            held += _size(entry)
            # The latest is kept however large it is, for the adjoint that follows.
            if (position or room_for) and (held > self._limit or position >= self.LARGEST_NUMBER):
                del self._entries[position:]
                return


def _size(entry: _Entry) -> int:
    return entry.values.nbytes + entry.factors.nbytes


factor_cache = FactorCache()
