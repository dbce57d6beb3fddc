"""Speed and memory of `metastep.anchors.fit_anchor` at the size of GPT-2: V = 50257, H = 768.

Prints tokens for each CPU second on one core, the share of the product of states and dictionary,
and the peak memory beyond that of the imported libraries. Must be: at least 500 tokens, at most 400
MiB, the dictionary (147 MiB) included. `python benchmarks/anchors.py [tokens] [block]`.
"""

import resource
import sys
from collections.abc import Iterator
from time import process_time

import numpy as np
from threadpoolctl import threadpool_limits

from metastep.anchors import fit_anchor

VOCABULARY, HIDDEN = 50257, 768
TOP = (0, 10, 100, 1000)
FEWEST_TOKENS, MOST_MEMORY = 500, 400


def peak() -> float:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def batches(tokens: int, size: int) -> Iterator[np.ndarray]:
    """Yield hidden states that are made when they are asked for, as a model would."""
    rng = np.random.default_rng(1)
    for start in range(0, tokens, size):
        yield rng.standard_normal((min(size, tokens - start), HIDDEN), np.float32)


def main() -> None:
    """Measure and print; end with status 1 if a limit is missed."""
    tokens, block = (*map(int, sys.argv[1:]), *(16384, 512)[len(sys.argv) - 1 :])
    libraries = peak()
    words = np.random.default_rng(0).standard_normal((VOCABULARY, HIDDEN), np.float32)
    words *= 0.1
    with threadpool_limits(1):
        start = process_time()
        fit_anchor(batches(tokens, 100), words, TOP, block=block)
        seconds = process_time() - start
        after = peak()
        states, product = next(batches(block, block)), np.empty((block, VOCABULARY), np.float32)
        start = process_time()
        np.matmul(states, words.T, out=product)
        share = (process_time() - start) * tokens / block / seconds
    print(
        f"{tokens} tokens, block {block}: {tokens / seconds:.0f} tokens per CPU second on one core"
    )
    print(f"product of states and dictionary: {share:.0%} of the time")
    own = after - libraries
    print(f"peak memory {own:.0f} MiB with the dictionary, {after:.0f} MiB with all libraries")
    sys.exit(tokens / seconds < FEWEST_TOKENS or own > MOST_MEMORY)


if __name__ == "__main__":
    main()
