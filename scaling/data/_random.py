"""Counter-based randomness: hashes of integers, uniforms and keyed permutations. Pure and vectorised functions.

``mix`` is the output function of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), a bijection of 64-bit integers whose
outputs over a counter pass BigCrush. There is no state: the value at a counter is a function of the counter.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ROUNDS = 6


def mix(x: np.ndarray) -> np.ndarray:
    """Splitmix64 of uint64 (any shape): equal inputs give equal outputs, different inputs different ones."""
    x = x + _GOLDEN
    x ^= x >> np.uint64(30)
    x *= _A
    x ^= x >> np.uint64(27)
    x *= _B
    x ^= x >> np.uint64(31)
    return x


def key(*parts: int) -> np.ndarray:
    """Folds integers (negative ones modulo 2^64) into one 64-bit key, uint64 (1,); the order of the parts matters."""
    value = np.zeros(1, np.uint64)
    for part in parts:
        value = mix(value ^ mix(np.array([part & 0xFFFFFFFFFFFFFFFF], np.uint64)))
    return value


def uniform(bits: np.ndarray) -> np.ndarray:
    """Uniforms in [0, 1) with 53 random bits from uint64."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: np.ndarray, size: int, secret: np.ndarray) -> np.ndarray:
    """Images of ``positions`` (n,), each in [0, size), under the permutation of range(size) keyed by ``secret``.

    A Feistel network over the next power of two (its halves may differ by one bit), with cycle walking: values
    outside the range are passed through again, which keeps it a bijection (Black and Rogaway, CT-RSA 2002). The domain
    is at most twice ``size``, so at most two passes are needed on average, and no array of length ``size`` is stored.
    """
    if size == 1:
        return np.zeros_like(positions)
    bits = max(2, (size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << (bits // 2)) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    round_keys = mix(secret + np.arange(_ROUNDS, dtype=np.uint64))

    def once(x: np.ndarray) -> np.ndarray:
        high, low = x >> low_bits, x & low_mask
        for turn in range(0, _ROUNDS, 2):
            high = high ^ (mix(low ^ round_keys[turn]) & high_mask)
            low = low ^ (mix(high ^ round_keys[turn + 1]) & low_mask)
        return (high << low_bits) | low

    out = once(positions.astype(np.uint64))
    outside = np.flatnonzero(out >= size)
    while outside.size:
        out[outside] = once(out[outside])
        outside = outside[out[outside] >= size]
    return out.astype(np.int64)


def shuffled(indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Maps example indices (n,) to items in [0, size): every epoch is another permutation of all items."""
    epochs, positions = np.divmod(np.asarray(indices, np.int64), size)
    chosen = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        chosen[here] = permute(positions[here], size, key(seed, int(epoch)))
    return chosen
