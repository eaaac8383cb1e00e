"""The WordNet reader, on files in WordNet's own format with words invented here."""

import pytest

from lattice_jax.corpus.pairs import Pair, list_pairs, load_pairs
from lattice_jax.corpus.readers.wordnet import definition
from lattice_jax.errors import InputError

LICENCE = "  1 This is a licence | with a bar  \n  2 to be skipped  \n"

# Two senses of 'glimmer', of which the index ranks the later one first; a word of two; a name in capitals.
NOUNS = """\
00000100 03 n 02 glimmer 0 glow_worm 1 001 @ 00000200 n 0000 | a faint shine; a weak ray; "a glimmer in the dark"; "it went out"
00000200 04 n 01 glimmer 2 000 | the smallest amount of hope
00000300 05 n 0a Aa 0 Bb 0 Cc 0 Dd 0 Ee 0 Ff 0 Gg 0 Hh 0 Ii 0 Jj 0 000 | ten names (called "the ten") : "Aa and Bb"
"""
NOUN_INDEX = """\
glimmer n 2 1 @ 2 1 00000200 00000100
glow_worm n 1 1 @ 1 0 00000100
"""
NOUN_INDEX += "".join(f"{letter * 2} n 1 0 1 0 00000300\n" for letter in "abcdefghij")


def wordnet(**changed):
    files = {
        "data.noun": LICENCE + NOUNS,
        "index.noun": LICENCE + NOUN_INDEX,
        "data.verb": LICENCE + '00000100 29 v 01 glimmer 0 000 01 + 02 00 | shine faintly; "stars glimmer"\n',
        "index.verb": LICENCE + "glimmer v 1 0 1 1 00000100\n",
        "data.adj": LICENCE + "00000100 00 s 02 glimmering(a) 0 aglow(ip) 0 000 | shining faintly;\n",
        "index.adj": LICENCE + "aglow a 1 0 1 0 00000100\nglimmering a 1 0 1 0 00000100\n",
        "data.adv": LICENCE + "00000100 02 r 01 faintly 0 000 | with little light  \n",
        "index.adv": LICENCE + "faintly r 1 0 1 0 00000100\n",
    }
    return {f"usr/share/wordnet/{name}": content for name, content in {**files, **changed}.items()}


def test_every_word_of_every_sense_is_an_entry_the_most_frequent_senses_first(install_debian):
    install_debian(wordnet())
    listing = list_pairs("wordnet")
    assert listing.entries == (
        Pair('What does the noun "glow worm" mean?', "a faint shine; a weak ray"),
        Pair('What does the noun "glimmer" mean?', "the smallest amount of hope"),
        *(Pair(f'What does the noun "{x}{x.lower()}" mean?', 'ten names (called "the ten")') for x in "ABCDEFGHIJ"),
        Pair('What does the verb "glimmer" mean?', "shine faintly"),
        Pair('What does the adjective "glimmering" mean?', "shining faintly"),
        Pair('What does the adjective "aglow" mean?', "shining faintly"),
        Pair('What does the adverb "faintly" mean?', "with little light"),
        Pair('What does the noun "glimmer" mean?', "a faint shine; a weak ray"),
    )
    assert listing.pairs == listing.entries[:-1]
    assert listing.left_out == {"further entries of the same question": 1}


def test_a_sample_has_as_many_questions_with_all_their_senses_and_holds_every_smaller_one(install_debian):
    install_debian(wordnet())
    whole = list_pairs("wordnet")
    previous = set()
    for count in range(1, 17):
        sample = list_pairs(f"wordnet:{count}")
        assert len(sample.pairs) == min(count, 16)
        questions = {pair.question for pair in sample.pairs}
        assert previous < questions
        assert sample.entries == tuple(pair for pair in whole.entries if pair.question in questions)
        previous = questions
    assert load_pairs("wordnet:99") == whole.pairs
    # This very sample on every machine.
    chosen = ['What does the noun "Hh" mean?', 'What does the adverb "faintly" mean?']
    assert [pair.question for pair in load_pairs("wordnet:2")] == chosen


@pytest.mark.parametrize(
    ("gloss", "expected"),
    [
        (' of worldwide scope; "a wide issue"- A. Writer; "an experience"', "of worldwide scope"),
        (' as in the phrase "on the job"; "he was on it"', 'as in the phrase "on the job"'),
        (" first part;  second part; ", "first part; second part"),
        (' spread ("strewn" is old) : "strew toys"', 'spread ("strewn" is old)'),
    ],
)
def test_definition_is_the_gloss_without_its_examples(gloss, expected):
    assert definition(gloss) == expected


@pytest.mark.parametrize("choice", ["0", "-3", "many", "20_000", "1.5", "2:3"])
def test_a_sample_of_no_number_is_refused(choice):
    with pytest.raises(InputError, match=f"'wordnet:{choice}'") as raised:
        load_pairs(f"wordnet:{choice}")
    assert "'wordnet:NUMBER'" in raised.value.expected


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data.noun", "00000400 03 n 01 glimmer 0 000 no bar"),
        ("data.noun", "00000400 03 n zz glimmer 0 000 | a gloss"),
        ("data.noun", "00000200 03 n 01 glimmer 0 000 | "),
        ("data.noun", "00000200 03"),
        ("data.noun", "00000400 03 n 01 glimmer 0 000 | a sense that the index lacks"),
        ("index.noun", "shimmer n 2 0 1 0 00000100"),
        ("index.noun", "shimmer n"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number(install_debian, file, line):
    whole = wordnet()[f"usr/share/wordnet/{file}"]
    install_debian(wordnet(**{file: whole + line + "\n"}))
    number = whole.count("\n") + 1
    with pytest.raises(InputError, match=rf"line {number} of '.*usr/share/wordnet/{file}'"):
        load_pairs("wordnet")


def test_a_file_that_is_not_utf8_is_refused_with_its_line(install_debian):
    install_debian(wordnet(**{"data.adv": LICENCE.encode() + b"00000100 02 r 01 faintly 0 000 | caf\xe9\n"}))
    with pytest.raises(InputError, match=r"line 3 of '.*data\.adv' is not UTF-8"):
        load_pairs("wordnet")


def test_a_missing_file_names_the_package(install_debian):
    files = wordnet()
    del files["usr/share/wordnet/index.adv"]
    install_debian(files)
    with pytest.raises(InputError, match=r"index\.adv") as raised:
        load_pairs("wordnet")
    assert "apt-get install wordnet-base" in raised.value.fix
