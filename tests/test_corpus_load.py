"""The corpus as a run sees it: the shipped sets share what they are judged on, and nothing of it leaks."""

import json

import pytest

from lattice_jax.config import CorpusConfig
from lattice_jax.corpus.corpus import load_corpus
from lattice_jax.corpus.overlap import word_set
from lattice_jax.corpus.pairs import TEN_QUESTIONS, data_hash, load_pairs
from lattice_jax.errors import InputError

SETTINGS = [{}, {"split_seed": 3}, {"held_out_pairs": 60, "validation_pairs": 5}, {"near_duplicate_similarity": 0.5}]


def chosen(corpus, side):
    return [corpus.pairs[index] for index in getattr(corpus.split, side)]


def test_hundred_has_the_promised_counts():
    corpus = load_corpus(CorpusConfig())
    assert (len(corpus.split.held_out), len(corpus.split.validation)) == (40, 12)
    assert len(corpus.split.train) >= 88
    assert corpus.pairs == load_pairs("hundred")


@pytest.mark.parametrize("settings", SETTINGS)
def test_ten_are_trained_and_judged_on_what_the_hundred_are(settings):
    ten, hundred = (load_corpus(CorpusConfig(pairs=name, **settings)) for name in ("ten", "hundred"))
    assert {pair.question for pair in chosen(ten, "train")} == set(TEN_QUESTIONS)
    assert set(chosen(ten, "train")) < set(chosen(hundred, "train"))
    assert chosen(ten, "held_out") == chosen(hundred, "held_out")
    assert chosen(ten, "validation") == chosen(hundred, "validation")
    assert sorted(ten.split.train + ten.split.validation + ten.split.held_out) == list(range(len(ten.pairs)))


def test_loading_twice_gives_the_same():
    assert load_corpus(CorpusConfig()) == load_corpus(CorpusConfig())


def test_no_sentence_repeats_judged_text():
    corpus = load_corpus(CorpusConfig())
    judged = [
        word_set(text) for side in ("held_out", "validation") for p in chosen(corpus, side) for text in (p.question, p.answer)
    ]
    assert len(corpus.sentences) > 4000
    for sentence in corpus.sentences:
        words = word_set(sentence)
        assert max(len(words & text) for text in judged) < 0.8 * len(words), sentence


@pytest.mark.parametrize("side", ["held_out", "validation"])
@pytest.mark.parametrize("part", ["question", "answer"])
def test_sentences_that_repeat_judged_text_are_removed_and_counted(tmp_path, side, part):
    leaks = [getattr(pair, part) for pair in chosen(load_corpus(CorpusConfig()), side)]
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(["An innocent sentence about gardens.", *leaks]))
    corpus = load_corpus(CorpusConfig(sentences=str(path)))
    assert corpus.sentences == ("An innocent sentence about gardens.",)
    assert corpus.sentences_removed == len(leaks)


@pytest.mark.parametrize("joined", ["scikit_learn_guide+chatterbot:elvish", "chatterbot:elvish+scikit_learn_guide"])
def test_an_installed_corpus_among_the_sentences_leaks_no_judged_text(install_python, joined):
    before = load_corpus(CorpusConfig())
    leaks = [
        text for side in ("held_out", "validation") for pair in chosen(before, side) for text in (pair.question, pair.answer)
    ]
    # Near-duplicates too: without the last of the words, the order turned round, in capitals.
    leaks += [" ".join(text.upper().split()[-2::-1]) for text in leaks]
    conversations = json.dumps({"conversations": [["An innocent sentence about gardens.", *leaks]]})
    install_python("chatterbot-corpus", {"chatterbot_corpus/data/elvish/tales.yml": conversations})
    corpus = load_corpus(CorpusConfig(sentences=joined))
    assert set(corpus.sentences) == {*before.sentences, "An innocent sentence about gardens."}
    assert corpus.sentences_removed == before.sentences_removed + len(set(leaks))


def test_a_corpus_may_be_pairs_and_sentences_at_once_without_its_held_out_answers_leaking(install_python):
    turns = [[f"Who is number {n}?", f"word{n} of the first kind, and of kind{n} too"] for n in range(20)]
    install_python("chatterbot-corpus", {"chatterbot_corpus/data/elvish/tales.yml": json.dumps({"conversations": turns})})
    corpus = load_corpus(
        CorpusConfig(pairs="chatterbot:elvish", sentences="chatterbot:elvish", held_out_pairs=5, validation_pairs=4)
    )
    judged = {text for side in ("held_out", "validation") for p in chosen(corpus, side) for text in (p.question, p.answer)}
    assert judged
    assert not judged & set(corpus.sentences)
    assert {pair.answer for pair in chosen(corpus, "train")} <= set(corpus.sentences)


def test_hash_covers_pairs_and_sentences():
    corpus = load_corpus(CorpusConfig())
    assert corpus.hash == data_hash(corpus.pairs, corpus.sentences)
    hashes = {
        load_corpus(CorpusConfig(pairs=p, sentences=s)).hash for p in ("ten", "hundred") for s in ("none", "scikit_learn_guide")
    }
    assert len(hashes) == 4


def test_any_file_is_divided_by_the_same_rules(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"question": f"Q{n}?", "answer": f"word{n}"}) + "\n" for n in range(20)))
    corpus = load_corpus(CorpusConfig(pairs=str(path), sentences="none", held_out_pairs=5, validation_pairs=4))
    assert [len(chosen(corpus, side)) for side in ("held_out", "validation", "train")] == [5, 4, 11]
    with pytest.raises(InputError, match="has 20 pairs, too few to divide"):
        load_corpus(CorpusConfig(pairs=str(path)))
