"""Make the shipped corpus from the documentation sources of scikit-learn, as Debian packages them.

Contract: the same package gives the same files, byte for byte. Written to lattice_jax/corpus/data:
    scikit_learn_pairs.jsonl      glossary terms and frequently asked questions with their answers
    scikit_learn_guide.txt        sentences of the user guide that no answer repeats
    LICENSE-scikit-learn.txt      the notice that BSD-3-Clause asks for
What is left out of the pairs is printed with the reason. The shipped files come from python-sklearn-doc 1.2.1+dfsg-1:
    apt-get download python-sklearn-doc && dpkg-deb -x python-sklearn-doc_*.deb unpacked
    pip install docutils
    python benchmarks/extract_scikit_learn.py unpacked
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles

from lattice_jax.corpus.overlap import word_list
from lattice_jax.corpus.sentences import without_near_duplicates

DATA = Path(__file__).resolve().parents[1] / "lattice_jax" / "corpus" / "data"
ANSWER_WORDS = 130
"""An answer ends with the last whole sentence before this many words; its first sentence is always kept."""
SHORTEST_ANSWER_WORDS = 4
SENTENCE_WORDS = range(5, 61)

GUIDE = (
    "modules/*.rst.txt",
    *(
        f"{name}.rst.txt"
        for name in ("inspection", "visualizations", "data_transforms", "model_persistence", "common_pitfalls")
    ),
    *("datasets/*.rst.txt", "computing/*.rst.txt", "getting_started.rst.txt", "tutorial/**/*.rst.txt", "developers/*.rst.txt"),
)
"""The chapters of the user guide, then the tutorials and the developers' guide."""

OMITTED = "\ufffd"
"""Stands for what can't be shown as text (a formula, a picture, a reference without a title) until its sentence is dropped."""
CITED = "\ufffc"
"""Stands for a citation, until it is removed or, where the sentence needs it, becomes OMITTED."""

QUESTIONS = json.loads(Path(__file__).with_name("scikit_learn_questions.json").read_text(encoding="utf-8"))
"""The question for each glossary term, aliases joined; the sections of QUESTION_TEMPLATES need none."""

QUESTION_TEMPLATES = {
    "Methods": "What does the method {} do?",
    "Parameters": "What does the parameter {} do?",
    "Attributes": "What does the attribute {} contain?",
}

POINTER = re.compile(
    r"(user guide: see|see|see also|refer to|please refer|for (more|further) \w+|for more detailed info|for a great read"
    r"|more (details|information|guidance)|you can find more|read more|follow on|common (attributes|parameters) are listed)\b",
    re.IGNORECASE,
)
"""How a sentence begins that only sends the reader elsewhere."""

EDITORIAL = re.compile(r"\s*\([^()]*\b(FIXME|XXX|TODO)\b[^()]*\)|\s*\b(FIXME|XXX|TODO)\b.*")
"""Notes of the authors to themselves: the parenthesis, or all the rest of the paragraph."""

SENTENCE_END = re.compile(
    r"(?<=[.?!])(?<!e\.g\.)(?<!i\.e\.)(?<!aka\.)(?<!vs\.)(?<!cf\.)(?<!\bal\.)(?<!resp\.)(?<!Fig\.)(?<!Eq\.)(?<!\.\.\.)"
    r"(?<! [A-Z]\.)[\"')]*\s+(?=[\"'(]*[A-Z0-9]|scikit|sci |\(?[a-z]+_[a-z])"
)


UNREADABLE = (
    *("currentmodule", "autosummary", "automodule", "plot", "sectionauthor", "only", "seealso", "centered"),
    *("allow_nan_estimators", "list-table", "rst-class", "toctree"),
)
"""Directives of Sphinx without text to keep."""


class Skipped(Directive):
    """A directive without readable text."""

    has_content = True
    optional_arguments = 99
    final_argument_whitespace = True
    option_spec: ClassVar = defaultdict(lambda: directives.unchanged)

    def run(self):
        return []


class Glossary(Directive):
    """Sphinx's glossary: terms at the margin, their definition indented below."""

    has_content = True

    def run(self):
        entries, start = [], 0
        while start < len(self.content):
            body = start
            while body < len(self.content) and not self.content[body].startswith(" "):
                body += 1
            end = body
            while end < len(self.content) and (not self.content[end] or self.content[end].startswith(" ")):
                end += 1
            entry = nodes.container(terms=[line.strip("` ") for line in self.content[start:body] if line])
            definition = self.content[body:end]
            definition.trim_left(min(len(line) - len(line.lstrip()) for line in definition if line))
            self.state.nested_parse(definition, self.content_offset + body, entry)
            entries.append(entry)
            start = end
        return entries


def register_sphinx(titles: dict[str, str]) -> None:
    """Teach docutils the roles and directives of Sphinx that the sources use."""

    def shown(role, raw, text, line, inliner, options=None, content=None):
        text = " ".join(text.replace("\x00", "").split())
        explicit = re.fullmatch(r"(.+?)\s*<[^<>]+>", text)
        if explicit:
            return [nodes.inline(raw, explicit[1])], []
        if role == "ref":
            return [nodes.inline(raw, titles.get(text.lower(), OMITTED))], []
        if role in ("issue", "doi", "arxiv"):
            return [nodes.inline(raw, OMITTED)], []
        foreign = text.startswith(("numpy.", "scipy.", "pandas.", "joblib."))
        if role == "mod" or role == "term" or (foreign and not text.startswith("~")):
            return [nodes.inline(raw, text.lstrip("~"))], []
        kept_parts = 2 if role == "meth" and not text.startswith("~") else 1
        return [nodes.inline(raw, ".".join(text.lstrip("~").split(".")[-kept_parts:]))], []

    for role in ("ref", "term", "class", "func", "meth", "mod", "attr", "obj", "issue", "doi", "arxiv"):
        roles.register_local_role(role, shown)
    directives.register_directive("glossary", Glossary)
    for name in UNREADABLE:
        directives.register_directive(name, Skipped)


def section_titles(sources: Path) -> dict[str, str]:
    """Titles of the sections that references without a text of their own point to, by label."""
    titles = {}
    for path in sorted(sources.rglob("*.rst.txt")):
        labels, lines = [], path.read_text(encoding="utf-8").splitlines()
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if label := re.fullmatch(r"\.\. _`?([^:`]+)`?:\s*", line):
                labels.append(label[1].lower())
            elif line.strip() and re.fullmatch(r"([=\-^~*+#\"'.])\1{2,}\s*", following) and not re.search(r"[`:|]", line):
                titles.update(dict.fromkeys(labels, line.strip()))
                labels = []
            elif line.strip() and not re.fullmatch(r"([=\-^~*+#\"'.])\1{2,}\s*", line):
                labels = []
    return titles


def parse(path: Path) -> nodes.document:
    """Document tree of one source file."""
    settings = {"report_level": 5, "halt_level": 6, "file_insertion_enabled": False, "raw_enabled": False}
    return publish_doctree(path.read_text(encoding="utf-8"), source_path=str(path), settings_overrides=settings)


def plain(node: nodes.Node) -> str:
    """Readable text of a paragraph, with OMITTED where there is none."""
    if isinstance(node, nodes.math) and re.fullmatch(r"[A-Za-z](_[A-Za-z0-9])?", node.astext().strip()):
        return node.astext().strip()
    if isinstance(node, nodes.math | nodes.image | nodes.problematic | nodes.substitution_reference):
        return OMITTED
    if isinstance(node, nodes.footnote_reference | nodes.citation_reference):
        return CITED
    if isinstance(node, nodes.target):
        return ""
    if isinstance(node, nodes.reference) and re.match(r"https?:", node.astext()):
        return OMITTED
    if isinstance(node, nodes.Text):
        return node.astext()
    return "".join(plain(child) for child in node.children)


def tidy(text: str) -> str:
    """One line; parentheses that only point elsewhere, the authors' notes and stray spaces removed."""
    text = " ".join(text.replace("\x00", "").replace(" -- ", " - ").split())
    text = re.sub(rf"\b(in|of|to|see|from|by|with|and|or|on)\s*{CITED}", OMITTED, text, flags=re.IGNORECASE)
    text = re.sub(rf"\s*{CITED}", "", text)
    text = re.sub(rf"\s*\((see|see also|e\.g\.)?\s*{OMITTED}\)", "", text)
    text = re.sub(r"\s*\((but )?see [^()]*(\([^()]*\)[^()]*)?\)|; see [^.;()]*(?=\.)", "", text)
    return re.sub(r"\s+([,;:!?)]|\.(?!\.))(?=[\s.,;:)]|$)", r"\1", EDITORIAL.sub("", text)).strip()


def sentences_of(node: nodes.Node) -> list[str]:
    """Sentences of a paragraph, or of everything below another node, lists joined to what introduces them."""
    if isinstance(node, nodes.paragraph):
        return [sentence for sentence in SENTENCE_END.split(tidy(plain(node))) if sentence]
    sentences: list[str] = []
    for child in node.children:
        if isinstance(child, nodes.literal_block | nodes.doctest_block | nodes.math_block):
            _close_before_code(sentences, child)
        elif isinstance(child, nodes.bullet_list | nodes.enumerated_list):
            _append_list(sentences, [sentences_of(item) for item in child.children])
        elif isinstance(child, nodes.definition_list):
            _append_list(sentences, [_definition(item) for item in child.children], joined=False)
        elif isinstance(child, nodes.paragraph | nodes.note | nodes.warning | nodes.block_quote):
            sentences.extend(sentences_of(child))
    return sentences


def _close_before_code(sentences: list[str], code: nodes.Node) -> None:
    """A single line of code is quoted; for longer code and formulas the sentence that announces them goes."""
    if not (sentences and sentences[-1].endswith(":")):
        return
    announcement = sentences.pop()
    if isinstance(code, nodes.literal_block) and "\n" not in code.astext():
        sentences.append(f"{announcement} {code.astext()}.")


def _append_list(sentences: list[str], items: list[list[str]], joined: bool = True) -> None:
    """Items that continue an unfinished sentence are joined to it, their further sentences left out; others follow it."""
    items = [item for item in items if item]
    introduced = bool(sentences) and sentences[-1][-1] not in ".?!"
    if introduced and joined and all(len(item) == 1 or item[0][0].islower() for item in items):
        parts = [re.sub(r"[.,;]*( and| or)?$", "", item[0]) for item in items]
        sentences[-1] = f"{sentences[-1]} {'; '.join(parts)}."
        return
    sentences.extend(sentence if sentence[-1] in ".?!:)" else f"{sentence}." for item in items for sentence in item)


def _definition(item: nodes.Node) -> list[str]:
    term, definition = item.children[0], item.children[-1]
    first, *rest = sentences_of(definition)
    label = tidy(plain(term))
    return [f"{label[0].upper()}{label[1:]}: {first}", *rest]


def answer_of(node: nodes.Node) -> str:
    """Whole sentences from the start of a definition, up to ANSWER_WORDS."""
    readable = [s for s in sentences_of(node) if not POINTER.match(s) and OMITTED not in s]
    answer: list[str] = []
    for sentence in readable:
        if answer and len(" ".join([*answer, sentence]).split()) > ANSWER_WORDS:
            break
        answer.append(sentence)
    while answer and answer[-1].endswith(":"):
        answer.pop()
    text = " ".join(answer)
    return f"{text}." if text[-1:].isalnum() else text


def glossary_pairs(document: nodes.document) -> Iterator[tuple[str, str, str]]:
    """Question, answer and source of every glossary entry."""
    for entry in document.findall(lambda node: isinstance(node, nodes.container) and "terms" in node):
        section = entry.parent
        while not isinstance(section, nodes.section):
            section = section.parent
        term = entry["terms"][0]
        template = QUESTION_TEMPLATES.get(section[0].astext())
        question = template.format(term) if template else QUESTIONS.get(term, "")
        yield question, answer_of(entry), f"scikit-learn glossary: {term}"


def faq_pairs(document: nodes.document) -> Iterator[tuple[str, str, str]]:
    """Question, answer and source of every frequently asked question."""
    for section in document.findall(nodes.section):
        question = " ".join(section[0].astext().split()).replace(" ?", "?")
        if question.endswith("?"):
            yield question, answer_of(section), "scikit-learn frequently asked questions"


def write_pairs(sources: Path) -> list[str]:
    """Write the pairs and return their answers."""
    kept = []
    for question, answer, source in [
        *glossary_pairs(parse(sources / "glossary.rst.txt")),
        *faq_pairs(parse(sources / "faq.rst.txt")),
    ]:
        if len(answer.split()) < SHORTEST_ANSWER_WORDS:
            print(f"left out, too short: {source}: {question} {answer!r}")
        elif not question:
            raise SystemExit(f"{source}: no question for this term in QUESTIONS")
        else:
            kept.append({"question": question, "answer": answer, "source": source})
    (DATA / "scikit_learn_pairs.jsonl").write_text(
        "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in kept), encoding="utf-8"
    )
    print(f"{len(kept)} pairs")
    return [pair["answer"] for pair in kept]


def guide_sentences(document: nodes.document) -> Iterator[str]:
    """Every sentence of running text, list items included, references and examples at the ends of sections aside."""
    for paragraph in document.findall(nodes.paragraph):
        parents = []
        node = paragraph
        while node.parent is not None:
            node = node.parent
            parents.append(node)
        aside = (nodes.table, nodes.footnote, nodes.citation, nodes.figure, nodes.system_message)
        topics = [p[0].astext() for p in parents if isinstance(p, nodes.topic)]
        if any(isinstance(p, aside) for p in parents) or any(re.match("References|Examples?", topic) for topic in topics):
            continue
        yield from sentences_of(paragraph)


def is_clean(sentence: str) -> bool:
    """Whether a sentence reads as plain English: whole, of sensible length, free of code, formulas and pointers."""
    words = sentence.split()
    return (
        len(words) in SENTENCE_WORDS
        and bool(re.match(r"[A-Z\"'(]|scikit-learn", sentence))
        and sentence[-1] in ".?!"
        and sentence.count("(") == sentence.count(")")
        and not re.search(rf"[{OMITTED}=<>|\\{{}}\[\]^$@#~*/`+]|http|\.\.|_\.|::|:\w+:", sentence)
        and not POINTER.match(sentence)
        and sum(word.strip(".,;:!?()\"'").replace("-", "").replace("'", "").isalpha() for word in words) >= 0.8 * len(words)
    )


def write_guide(sources: Path, answers: list[str]) -> None:
    """Write the sentences of the user guide that no answer repeats."""
    distinct: dict[str, str] = {}
    for path in (path for pattern in GUIDE for path in sorted(sources.glob(pattern))):
        for sentence in filter(is_clean, guide_sentences(parse(path))):
            distinct.setdefault(" ".join(word_list(sentence)), sentence)
    sentences = without_near_duplicates(list(distinct.values()), answers, threshold=0.8)
    (DATA / "scikit_learn_guide.txt").write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    print(f"{len(sentences)} sentences; {len(distinct) - len(sentences)} more repeat an answer")


def write_notice(copyright_file: Path) -> None:
    """Write the copyright line and the licence from the package's own copyright file."""
    text = copyright_file.read_text(encoding="utf-8")
    holder = re.search(r"^Files: \*\nCopyright: (.+)\n", text, re.MULTILINE)
    terms = re.search(
        r"^License: BSD-3-Clause\n((?: .*\n)+)", text[text.index("\nLicense: BSD-2-Clause\n Redis") :], re.MULTILINE
    )
    if not (holder and terms):
        raise SystemExit(f"{copyright_file} has another layout than that of 1.2.1+dfsg-1")
    licence = re.sub(r"^ \.?", "", terms[1], flags=re.MULTILINE)
    heading = (
        "scikit_learn_pairs.jsonl and scikit_learn_guide.txt are excerpts of the documentation of scikit-learn 1.2: without\n"
        "markup, answers shortened to whole sentences, a question put to every glossary term. Their notice (BSD-3-Clause):\n\n"
    )
    (DATA / "LICENSE-scikit-learn.txt").write_text(f"{heading}Copyright (c) {holder[1]}\n\n{licence}", encoding="utf-8")


def main() -> None:
    """Make all three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("unpacked", type=Path, help="folder that the Debian package was unpacked into")
    package = parser.parse_args().unpacked / "usr" / "share" / "doc" / "python-sklearn-doc"
    sources = package / "html" / "_sources"
    register_sphinx(section_titles(sources))
    write_guide(sources, write_pairs(sources))
    write_notice(package / "copyright")


if __name__ == "__main__":
    main()
