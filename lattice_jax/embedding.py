"""What bin/embed does: the embeddings of a whole corpus onto disk, and whether those on disk are as they were written.

Contract: each function works on a directory and tells a console what it does. Embeddings go into
`teachers.cache.teacher_store(settings, out)`, which a run finds with `--config.teacher.cache_directory=OUT`; the corpus's
order goes beside them, see `teachers.cache.record_corpus`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lattice_jax.config import CorpusConfig, TeacherConfig
from lattice_jax.corpus.readers.entries import Columns
from lattice_jax.corpus.texts import corpus_texts
from lattice_jax.errors import InputError
from lattice_jax.teachers.cache import extract, open_corpus, record_corpus, recorded_corpora
from lattice_jax.teachers.shards import MANIFEST
from lattice_jax.teachers.store import (
    Condition,
    Store,
    addresses_of,
    check_directory,
    open_store,
    read_manifest,
    unlisted_shards,
)
from lattice_jax.teachers.weights import make_directory
from lattice_jax.training.monitor import peak_memory_bytes

ARGUMENTS = {
    "corpus.pairs": "--corpus",
    "corpus.sentences": "--corpus",
    "teacher.name": "--teacher",
    "teacher.cache_directory": "--out",
}
"""Setting of a run -> the argument of bin/embed that stands for it."""


@dataclass(frozen=True)
class CorpusColumns:
    """The settings of `CorpusConfig` that matter where a whole corpus is embedded."""

    question_column: str = CorpusConfig.question_column
    """Name of the key or column with the questions, in files and directories."""
    answer_column: str = CorpusConfig.answer_column
    """Name of the key or column with the answers."""

    def __post_init__(self):
        CorpusConfig(question_column=self.question_column, answer_column=self.answer_column)  # refuses what a run refuses

    @classmethod
    def of(cls, config: CorpusConfig) -> "CorpusColumns":
        """Those of a configuration."""
        return cls(config.question_column, config.answer_column)


def embed_corpus(settings: TeacherConfig, corpus: str, columns: CorpusColumns, out: Path | None, *, console: Console) -> dict:
    """Embed what is not yet embedded of a corpus, and record its order; returns the figures that it prints."""
    start = time.perf_counter()
    texts = corpus_texts(corpus, Columns(columns.question_column, columns.answer_column))
    make_directory(out or Path(settings.cache_directory))  # before hours of encoding, because it may be refused
    with embedding_progress(settings.name, console) as on_progress:
        found = extract(texts, settings, directory=out, on_progress=on_progress)
    store = found.embeddings.store
    order = record_corpus(store, corpus, addresses_of(texts))
    seconds = time.perf_counter() - start
    figures = {
        "texts": len(texts),
        "different": len(set(texts)),
        "new": found.new,
        "cut": found.cut,
        "dimension": store.dimension,
        "stored_as": settings.stored_as,
        "shards": len(store.shards),
        "size_bytes": store.size,
        "seconds": seconds,
        "texts_per_second": found.new / seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    title = escape(f"{corpus} by {settings.name}")
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row("texts (different ones)", f"{figures['texts']:,} ({figures['different']:,})")
    table.add_row("new", f"{found.new:,}")
    table.add_row("longer than the teacher reads, cut", f"{found.cut:,}")
    table.add_row("numbers a text", f"{store.dimension:,} as {settings.stored_as}")
    table.add_row("on disk, all in this store", f"{store.size / 1e6:,.1f} MB in {len(store.shards)} shards")
    table.add_row("seconds", f"{seconds:,.1f}")
    table.add_row("new texts/s", f"{figures['texts_per_second']:,.1f}")
    table.add_row("memory at most", f"{figures['peak_memory_bytes'] / 1e6:,.0f} MB")
    console.print(table)
    console.out(f"Embeddings: {store.directory}\nOrder of the texts: {order}", highlight=False)
    return figures


def check(directory: Path, *, console: Console) -> None:
    """Read every embedding and every recorded corpus below a directory and print how they are.

    `InputError` names what is damaged, and corpora of which embeddings are missing.
    """
    stores = find_stores(directory)
    if not stores:
        raise InputError(
            f"{directory} holds no embeddings", expected="a directory that bin/embed wrote", fix="give --check its --out"
        )
    damaged, incomplete, listed = [], [], True
    for store in stores:
        conditions = _tell_conditions(store, console)
        harm = [f"{condition.path} {condition.damage}" for condition in conditions if condition.damage]
        manifest = read_manifest(store)
        if manifest is None:
            console.out(f"{store} has no {MANIFEST}: the next run writes it anew", highlight=False)
        elif not harm and all(condition.listed for condition in conditions):
            incomplete += _tell_corpora(open_store(store, manifest[0]), console)
        damaged += harm
        listed = listed and manifest is not None
    if damaged:
        raise InputError(
            "\n".join(damaged),
            expected="shards as they were written",
            fix=f"delete them and the {MANIFEST} beside them: their embeddings are computed again, the others are listed anew",
        )
    if incomplete:
        raise InputError(
            "\n".join(incomplete),
            expected="the order of every corpus as it was written, and the embedding of each of its texts",
            fix="run bin/embed again with each of these corpora",
        )
    if listed:
        console.print("All embeddings are as they were written.")


def _tell_conditions(store: Path, console: Console) -> list[Condition]:
    """How every shard is, printed as a table."""
    table = Table(title=escape(str(store)), title_justify="left")
    table.add_column("shard", no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("MB", justify="right")
    table.add_column("state")
    conditions = list(check_directory(store))
    for condition in conditions:
        shard = condition.shard
        state = condition.damage or ("whole" if condition.listed else f"whole, not in {MANIFEST}: listed by the next run")
        rows, size = (f"{shard.rows:,}", f"{shard.size / 1e6:,.1f}") if shard else ("?", "?")
        table.add_row(condition.path.name[:16] + "...", rows, size, state, style="red" if condition.damage else None)
    console.print(table)
    return conditions


def _tell_corpora(store: Store, console: Console) -> list[str]:
    """Prints how many texts every recorded corpus has; returns what is wrong with those that can't be had whole."""
    wrong = []
    for name in recorded_corpora(store):
        try:
            console.print(f"corpus {name}: {len(open_corpus(store, name)):,} texts, all there", highlight=False, markup=False)
        except InputError as error:
            wrong.append(error.found)
    return wrong


def find_stores(directory: Path) -> list[Path]:
    """A directory or those directly in it, as far as they hold embeddings."""
    candidates = [directory, *sorted(path for path in directory.glob("*") if path.is_dir())]
    return [path for path in candidates if (path / MANIFEST).exists() or unlisted_shards(path)]


@contextmanager
def embedding_progress(teacher: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar with texts/s and the time left, for as long as there is something to compute."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Texts(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"embedding with {teacher}", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Texts(ProgressColumn):
    """Texts done and to do, and how many a second."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        speed = f", {task.speed:,.0f} texts/s" if task.speed else ""
        return Text(f"{task.completed:,.0f} of {task.total:,.0f}{speed}")
