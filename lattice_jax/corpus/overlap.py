"""Word sets of texts, and which of them overlap.

Contract: a text is the set of its words, case-folded, punctuation and order left out. Both searches are exact: they give what
comparing every text with every other one would, and look only at texts that share a rare word, which keeps 100,000 texts
within reach (prefix filtering: Bayardo, Ma and Srikant, "Scaling up all pairs similarity search", WWW 2007, section 4).
A text without any word overlaps with nothing.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

WordSet = frozenset[str]


def word_list(text: str) -> list[str]:
    """Words of a text in order, case-folded, compatibility characters unified (NFKC)."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def word_set(text: str) -> WordSet:
    """Distinct words of a text."""
    return frozenset(word_list(text))


def jaccard(left: WordSet, right: WordSet) -> float:
    """Shared words over all words of two texts, 0..1; two texts without words share nothing."""
    return len(left & right) / max(len(left | right), 1)


def similar_pairs(texts: Sequence[WordSet], threshold: float) -> Iterator[tuple[int, int]]:
    """Indices (earlier, later) of every two texts whose `jaccard` is at least `threshold`, in (0, 1]."""
    prefixes = _prefixes(texts, threshold, _frequencies(texts))
    holders = defaultdict(list)
    for later, text in enumerate(texts):
        candidates = {earlier for word in prefixes[later] for earlier in holders[word]}
        for earlier in sorted(candidates):
            if _reaches(len(text & texts[earlier]), threshold, len(text | texts[earlier])):
                yield earlier, later
        for word in prefixes[later]:
            holders[word].append(later)


def contained(texts: Sequence[WordSet], others: Sequence[WordSet], threshold: float) -> list[bool]:
    """For each text, whether one of `others` holds at least the share `threshold`, in (0, 1], of its words."""
    holders = defaultdict(list)
    for index, other in enumerate(others):
        for word in other:
            holders[word].append(index)
    prefixes = _prefixes(texts, threshold, _frequencies(others))
    return [
        any(
            _reaches(len(text & others[index]), threshold, len(text))
            for index in {index for word in prefix for index in holders.get(word, ())}
        )
        for text, prefix in zip(texts, prefixes, strict=True)
    ]


def _frequencies(texts: Sequence[WordSet]) -> Counter[str]:
    return Counter(word for text in texts for word in text)


def _prefixes(texts: Sequence[WordSet], threshold: float, frequencies: Counter[str]) -> list[list[str]]:
    """Each text's rarest words, as many as cannot all be missing from a text that overlaps enough."""
    ordered = (sorted(text, key=lambda word: (frequencies[word], word)) for text in texts)
    return [words[: len(words) - _needed(threshold, len(words)) + 1] for words in ordered]


def _needed(threshold: float, size: int) -> int:
    # 0.28 * 25 is 7.000000000000001 in floating point, and 7 of 25 words must do.
    return max(math.ceil(threshold * size - 1e-9), 1)


def _reaches(shared: int, threshold: float, size: int) -> bool:
    return shared >= _needed(threshold, size)
