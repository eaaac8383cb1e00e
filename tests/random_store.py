"""A small store of random embeddings, and what the tests of stores ask of one."""

from pathlib import Path

import numpy as np

from lattice_jax.teachers.shards import Rows
from lattice_jax.teachers.store import Store, View, addresses_of, check_directory, open_store

DIMENSION = 24
TEXTS = [f"text {index}" for index in range(30)]


def description(stored_as: str = "float32", dimension: int = DIMENSION) -> dict:
    return {"teacher": "a random one", "dimension": dimension, "stored_as": stored_as}


def random_rows(texts: list[str], dimension: int = DIMENSION) -> Rows:
    random_numbers = np.random.default_rng(len(texts))
    embeddings = random_numbers.normal(size=(len(texts), dimension)).astype(np.float32)
    return Rows(addresses_of(texts), embeddings, random_numbers.random(len(texts)) < 0.5)


def part(rows: Rows, which: slice) -> Rows:
    return Rows(*(values[which] for values in rows))


ROWS = random_rows(TEXTS)


def fill(directory: Path) -> Store:
    """Thirty rows in three shards."""
    store = open_store(directory, description())
    for start in (0, 10, 20):
        store = store.add(part(ROWS, slice(start, start + 10)))
    return store


def conditions(directory: Path) -> dict[Path, str | None]:
    return {condition.path: condition.damage for condition in check_directory(directory)}


def everything(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and cuts of all thirty, by a store opened anew."""
    store = open_store(directory, description())
    rows = store.find(addresses_of(TEXTS))
    return View(store, rows)[:], store.cut(rows)
