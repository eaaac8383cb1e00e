"""The implementations beside which the lattice's speed is measured, none of which shares computing code with it.

Contract: `torch_lattice` and `per_cell_modules` compute what the plain scan computes, values and gradients, and take its
parameters in its layout; whoever times them first holds them to it with `largest_difference`. `cax_lattice` is another
library's own automaton of about the same size. Their requirements are in `benchmarks/requirements.txt`; the package itself
needs none of them.
"""

from collections.abc import Mapping

import numpy as np


def largest_difference(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The largest difference between arrays of the same names, as a share of the expected array's largest entry; and its name.

    NaN where anything found is not a number, so a check `difference <= tolerance` fails on it. Raises ValueError for names or
    shapes that differ.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"found {sorted(found)}, expected {sorted(expected)}")

    def difference(name: str) -> float:
        here, there = np.asarray(found[name], np.float64), np.asarray(expected[name], np.float64)
        if here.shape != there.shape:
            raise ValueError(f"{name}: found shape {here.shape}, expected {there.shape}")
        return float(np.max(np.abs(here - there)) / max(np.max(np.abs(there)), np.finfo(np.float32).tiny))

    differences = {name: difference(name) for name in expected}
    name = max(differences, key=lambda name: np.inf if np.isnan(differences[name]) else differences[name])
    return differences[name], name
