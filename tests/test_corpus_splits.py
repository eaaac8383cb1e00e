"""The division of pairs: disjoint, complete, repeatable, and without relatives on two sides."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_jax.config import CorpusConfig
from lattice_jax.corpus import splits
from lattice_jax.corpus.overlap import jaccard, word_set
from lattice_jax.corpus.pairs import Pair, load_pairs
from lattice_jax.corpus.splits import split_pairs
from lattice_jax.errors import InputError


def distinct_pairs(count):
    return [Pair(f"Question {index}?", f"only{index} words{index} here{index}") for index in range(count)]


def config(held_out=4, validation=3, **settings):
    return CorpusConfig(held_out_pairs=held_out, validation_pairs=validation, **settings)


def side_of(split):
    return {index: name for name in ("train", "validation", "held_out") for index in getattr(split, name)}


def questions(pairs, indices):
    return {pairs[index].question for index in indices}


def test_distinct_pairs_give_exact_counts():
    split = split_pairs(distinct_pairs(20), config())
    assert (len(split.held_out), len(split.validation), len(split.train)) == (4, 3, 13)


def test_sides_are_sorted_disjoint_and_complete():
    split = split_pairs(load_pairs("hundred"), CorpusConfig())
    assert sorted(split.train + split.validation + split.held_out) == list(range(len(load_pairs("hundred"))))
    assert all(list(side) == sorted(side) for side in (split.train, split.validation, split.held_out))


def test_division_is_this_one_on_every_machine():
    split = split_pairs(distinct_pairs(12), config(2, 2))
    assert (split.held_out, split.validation) == ((0, 4), (3, 10))


def test_division_does_not_depend_on_the_order_of_the_file():
    pairs = list(load_pairs("hundred"))
    shuffled = random.Random(1).sample(pairs, len(pairs))
    one, other = split_pairs(pairs, CorpusConfig()), split_pairs(shuffled, CorpusConfig())
    for side in ("train", "validation", "held_out"):
        assert questions(pairs, getattr(one, side)) == questions(shuffled, getattr(other, side))


def test_one_more_pair_moves_two_pairs_at_most():
    pairs = distinct_pairs(40)
    for extra in range(20):
        before = side_of(split_pairs(pairs, config()))
        after = side_of(split_pairs([*pairs, Pair(f"Extra {extra}?", "something else")], config()))
        assert sum(before[index] != after[index] for index in before) <= 2


def test_seed_changes_the_division():
    held_out = {split_pairs(distinct_pairs(40), config(split_seed=seed)).held_out for seed in range(5)}
    assert len(held_out) == 5


def test_every_pair_gets_held_out_under_some_seed():
    pairs = distinct_pairs(20)
    held_out = {index for seed in range(60) for index in split_pairs(pairs, config(split_seed=seed)).held_out}
    assert held_out == set(range(20))


def test_same_question_in_other_spelling_stays_together():
    spellings = ("What IS a cube?", "what is a cube", "What is -- a 'cube'?!", "\uff37hat is a cube?")
    pairs = distinct_pairs(20) + [Pair(text, f"answer{n} alone{n}") for n, text in enumerate(spellings)]
    for seed in range(10):
        sides = side_of(split_pairs(pairs, config(split_seed=seed)))
        assert len({sides[index] for index in range(20, 24)}) == 1


def test_questions_without_words_are_not_all_the_same():
    pairs = [Pair("?" * (index + 1), f"word{index}") for index in range(20)]
    assert len(split_pairs(pairs, config()).held_out) == 4


def test_near_duplicate_answers_stay_together_through_a_chain():
    # Neighbours in the chain share 9 of 11 words (0.82), its ends only 8 of 12 (0.67).
    words = [f"w{index}" for index in range(12)]
    chain = [Pair(f"Chain {start}?", " ".join(words[start : start + 10])) for start in range(3)]
    assert jaccard(word_set(chain[0].answer), word_set(chain[2].answer)) < 0.8
    pairs = distinct_pairs(15) + chain
    for seed in range(10):
        sides = side_of(split_pairs(pairs, config(split_seed=seed)))
        assert len({sides[index] for index in (15, 16, 17)}) == 1
    apart = [side_of(split_pairs(pairs, config(split_seed=seed, near_duplicate_similarity=0.9))) for seed in range(10)]
    assert any(len({sides[index] for index in (15, 16, 17)}) > 1 for sides in apart)


def test_many_questions_of_one_answer_are_not_compared_with_each_other(monkeypatch):
    compared = []
    monkeypatch.setattr(splits, "similar_pairs", lambda texts, threshold: compared.extend(texts) or iter(()))
    pairs = distinct_pairs(15) + [Pair(f"Is {number} even?", answer) for number in range(40) for answer in ("Yes!", "yes")]
    sides = side_of(split_pairs(pairs, config()))
    assert len(compared) == 16
    assert len({sides[index] for index in range(15, len(pairs))}) == 1


ANSWERS = st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1).map(sorted).map(" ".join), min_size=14, max_size=30)


@settings(max_examples=150, deadline=None)
@given(answers=ANSWERS, seed=st.integers(0, 5), threshold=st.sampled_from([0.4, 0.7, 0.8, 1.0]))
def test_no_relatives_on_two_sides(answers, seed, threshold):
    pairs = [Pair(f"Question {index // 2}{'?' * (index % 2)}", answer) for index, answer in enumerate(answers)]
    chosen = config(3, 2, split_seed=seed, near_duplicate_similarity=threshold)
    try:
        split = split_pairs(pairs, chosen)
    except InputError as error:
        assert "stay together" in str(error)  # noqa: PT017 (a refusal is a right answer when few groups are left)
        return
    sides = side_of(split)
    assert len(sides) == len(pairs)
    assert len(split.held_out) <= 3
    assert len(split.validation) <= 2
    for later in range(len(pairs)):
        for earlier in range(later):
            related = earlier // 2 == later // 2 or jaccard(word_set(answers[earlier]), word_set(answers[later])) >= threshold
            assert not related or sides[earlier] == sides[later]


def test_a_group_too_large_for_a_side_leaves_it_to_smaller_ones():
    twins = [Pair(f"Twin {index}?", "the very same answer") for index in range(5)]
    for seed in range(10):
        split = split_pairs(twins + distinct_pairs(20), config(split_seed=seed))
        assert (len(split.held_out), len(split.validation)) == (4, 3)
        assert set(range(5)) <= set(split.train)


def test_groups_of_three_fill_a_side_as_far_as_they_fit():
    pairs = [Pair(f"Question {index}?", f"same{index // 3} answer{index // 3}") for index in range(60)]
    split = split_pairs(pairs, config(10, 7))
    assert (len(split.held_out), len(split.validation)) == (9, 6)


def test_named_questions_and_their_relatives_always_train():
    pairs = [*distinct_pairs(20), Pair("Twin?", distinct_pairs(1)[0].answer)]
    for seed in range(20):
        split = split_pairs(pairs, config(split_seed=seed), always_train=["Question 0?", "Question 7?"])
        assert {0, 7, 20} <= set(split.train)
        assert (len(split.held_out), len(split.validation)) == (4, 3)


def test_too_few_pairs_are_refused_with_counts_and_settings():
    with pytest.raises(InputError) as raised:
        split_pairs(distinct_pairs(8), config())
    message = str(raised.value)
    assert "has 8 pairs" in message
    assert "at least 9: 4 held out, 3 for validation, 2 or more for training" in message
    assert "--config.corpus.held_out_pairs" in message
    split_pairs(distinct_pairs(9), config())


def test_pairs_that_all_stay_together_are_refused_with_the_setting():
    same = [Pair(f"Question {index}?", "the very same answer") for index in range(30)]
    with pytest.raises(InputError, match="form only 1 groups") as raised:
        split_pairs(same, config())
    assert "near_duplicate_similarity" in raised.value.fix
