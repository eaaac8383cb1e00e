"""The shipped texts: plain English without markup, complete, distinct, with their notice."""

import json
import re
from collections import Counter
from importlib import resources

from lattice_jax.corpus.overlap import word_list
from lattice_jax.corpus.pairs import TEN_QUESTIONS, load_pairs
from lattice_jax.corpus.sentences import load_sentences

MARKUP = re.compile(
    r"`|:\w+:|\.\. |_ <|<http|https?:|::|>>>|\*\*|\|\w+\||\[\d+\]_|\\\w|\b(FIXME|TODO|XXX)\b|[\ufffc\ufffd\x00]|  "
    r"|^See |Examples using|sphx_glr|\s\(\s*\)| [,;]|\(see "
)
SENTENCE_ENDS = (".", "!", "?", '".', ".)")


def shipped(filename):
    return resources.files("lattice_jax.corpus").joinpath("data", filename).read_text(encoding="utf-8")


def test_pairs_have_question_answer_and_source():
    for line in shipped("scikit_learn_pairs.jsonl").splitlines():
        entry = json.loads(line)
        assert list(entry) == ["question", "answer", "source"]
        assert entry["source"].startswith("scikit-learn ")


def test_pairs_are_enough_for_a_hundred():
    assert len(load_pairs("hundred")) >= 140


def test_questions_read_as_questions():
    for pair in load_pairs("hundred"):
        assert pair.question.endswith("?"), pair.question
        assert 2 <= len(pair.question.split()) <= 25, pair.question


def test_answers_are_whole_sentences_of_sensible_length():
    for pair in load_pairs("hundred"):
        assert 4 <= len(pair.answer.split()) <= 150, pair
        assert pair.answer.endswith(SENTENCE_ENDS), pair


def test_questions_and_answers_are_distinct():
    pairs = load_pairs("hundred")
    for texts in ([pair.question for pair in pairs], [pair.answer for pair in pairs]):
        assert [text for text, count in Counter(" ".join(word_list(text)) for text in texts).items() if count > 1] == []


def test_pairs_hold_no_markup():
    assert [text for pair in load_pairs("hundred") for text in (pair.question, pair.answer) if MARKUP.search(text)] == []


def test_ten_are_ten_of_the_hundred():
    assert {pair.question for pair in load_pairs("ten")} == set(TEN_QUESTIONS)
    assert len(TEN_QUESTIONS) == 10
    assert set(load_pairs("ten")) < set(load_pairs("hundred"))


def test_guide_has_thousands_of_distinct_sentences():
    sentences = load_sentences("scikit_learn_guide")
    assert 4000 <= len(sentences) <= 6000
    assert len({" ".join(word_list(sentence)) for sentence in sentences}) == len(sentences)


def test_guide_sentences_are_clean():
    for sentence in load_sentences("scikit_learn_guide"):
        assert not MARKUP.search(sentence), sentence
        assert not re.search(r"[=<>|\\{}\[\]^$@#~*/]", sentence), sentence
        assert 5 <= len(sentence.split()) <= 60, sentence
        assert sentence.endswith((".", "!", "?")), sentence


def test_guide_repeats_no_answer():
    answers = [" ".join(word_list(pair.answer)) for pair in load_pairs("hundred")]
    for sentence in load_sentences("scikit_learn_guide"):
        folded = " ".join(word_list(sentence))
        assert not any(f" {folded} " in f" {answer} " for answer in answers), sentence


def test_notice_is_shipped():
    notice = " ".join(shipped("LICENSE-scikit-learn.txt").split())
    assert "Scikit-Learn Developers" in notice
    assert "Redistributions in binary form must reproduce the above copyright notice" in notice
    assert "OF THE POSSIBILITY OF SUCH DAMAGE." in notice
