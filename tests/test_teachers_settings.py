"""What is taken of a teacher: layers, pooling, template, length and numbers, by setting or from the teacher's own files."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from teacher_directory import ENCODERS, make_teacher, write_json

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers import stages
from lattice_jax.teachers.embed import embed, encode, load_teacher, load_tokenizer, tokenize
from lattice_jax.teachers.settings import describe
from lattice_jax.teachers.stages import through_layer

TEXTS = ["w5 w9 w30", "w7", "w59 w8 w8 w41 w12"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A small BERT; tests that write into a directory make one of their own."""
    return make_teacher(tmp_path_factory.mktemp("settings") / "teacher")


def embeddings(directory: Path, **settings: object) -> np.ndarray:
    """Unchecked: the first tokens of all texts embed alike."""
    teacher = load_teacher(TeacherConfig(name=str(directory), **settings))  # pyright: ignore[reportArgumentType]
    return encode(teacher, tokenize(teacher.tokenizer, TEXTS), batch_size=2)


def hidden_states(directory: Path, text: str) -> np.ndarray:
    """States of a text alone, [layer, token, hidden], in one pass without padding."""
    teacher = load_teacher(TeacherConfig(name=str(directory)))
    ids = np.array([tokenize(teacher.tokenizer, [text])[0].ids])
    states = teacher.encoder.apply({"params": teacher.parameters}, ids, np.ones(ids.shape, bool))
    return np.stack([np.asarray(state)[0] for state in states])


@pytest.mark.parametrize(
    ("pooling", "pool"), [("mean", lambda s: s.mean(0)), ("last", lambda s: s[-1]), ("cls", lambda s: s[0])]
)
@pytest.mark.parametrize(("layers", "chosen"), [("-1", [2]), ("0", [0]), ("1", [1]), ("-2, -1", [1, 2]), ("0,1,2", [0, 1, 2])])
def test_pooling_and_layers_follow_their_definitions(directory, pooling, pool, layers, chosen):
    found = embeddings(directory, pooling=pooling, layers=layers, normalise=False)
    expected = [pool(hidden_states(directory, text)[chosen].mean(0)) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_length_one_is_a_setting(directory):
    plain, unit = embeddings(directory, normalise=False), embeddings(directory)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    np.testing.assert_allclose(unit, plain / lengths, atol=1e-6)


@pytest.mark.parametrize(("layers", "computed"), [("0", 0), ("1", 1), ("0,1", 1), ("-1", 2)])
def test_layers_beyond_the_ones_taken_are_not_computed(directory, monkeypatch, layers, computed):
    through = []

    def counted(*arguments, **settings):
        through.append(settings["layer"])
        return through_layer(*arguments, **settings)

    monkeypatch.setattr(stages, "through_layer", counted)
    teacher = load_teacher(TeacherConfig(name=str(directory), layers=layers))
    encode(teacher, tokenize(teacher.tokenizer, TEXTS[:1]), batch_size=2)
    assert len(through) == computed


def test_a_layer_that_is_named_twice_counts_twice(directory):
    found = embeddings(directory, layers="0,2,2", normalise=False)
    expected = [hidden_states(directory, text)[[0, 2, 2]].mean((0, 1)) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_layer_is_compiled_once_for_all_layers(directory):
    teacher = load_teacher(TeacherConfig(name=str(directory)))
    through_layer.clear_cache()
    encode(teacher, tokenize(teacher.tokenizer, TEXTS[:1]), batch_size=3)
    assert through_layer._cache_size() == 1


def test_a_template_is_what_the_teacher_reads(directory):
    found = embeddings(directory, template="w11 {text} w12")
    expected = embed(load_teacher(TeacherConfig(name=str(directory))), [f"w11 {text} w12" for text in TEXTS], batch_size=2)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - embeddings(directory)).max() > 0.01
    with pytest.raises(InputError, match="text 1 is '  ', which has nothing to embed"):
        tokenize(load_tokenizer(TeacherConfig(name=str(directory), template="w11 {text}")), ["w5", "  "])


def test_braces_in_texts_and_templates_are_only_braces(directory):
    reader = load_tokenizer(TeacherConfig(name=str(directory), template="{w9} {text}"))
    assert [token.ids for token in tokenize(reader, ["{text} w5"])] == [(2, 4, 4, 5, 3)]


def test_a_longer_text_is_cut_and_counted(directory):
    for config, length in ((TeacherConfig(name=str(directory)), 20), (TeacherConfig(name=str(directory), max_length=6), 6)):
        fitting, longer = tokenize(load_tokenizer(config), ["w5 " * (length - 2), "w5 " * (length - 1)])
        assert [fitting.cut, longer.cut] == [False, True]
        assert fitting.ids == longer.ids
        assert len(longer.ids) == length


def test_a_text_as_long_as_roberta_takes_has_positions(tmp_path):
    """Positions past the last row would be clamped without a word."""
    directory = make_teacher(tmp_path / "teacher", "roberta")
    teacher = load_teacher(TeacherConfig(name=str(directory)))
    (longest,) = tokenize(teacher.tokenizer, ["w5 " * 30])
    assert len(longest.ids) == 18
    table = json.loads((ENCODERS / "roberta" / "config.json").read_text())["max_position_embeddings"]
    assert teacher.padding_id + len(longest.ids) == table - 1


@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_numbers_are_those_of_weights_and_states(directory, numbers):
    teacher = load_teacher(TeacherConfig(name=str(directory), numbers=numbers))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(teacher.parameters)} == {numbers}
    exact, found = embeddings(directory, numbers="float32"), embeddings(directory, numbers=numbers)
    assert found.dtype == np.float32
    difference = np.abs(found - exact).max()
    assert difference == 0 if numbers == "float32" else 1e-5 < difference < 0.05


def test_numbers_are_chosen_by_device(directory, monkeypatch):
    assert describe(TeacherConfig(name=str(directory)))["numbers"] == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert describe(TeacherConfig(name=str(directory)))["numbers"] == "bfloat16"


# What the teacher's own files say


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [("pooling_mode_mean_tokens", "mean"), ("pooling_mode_lasttoken", "last"), ("pooling_mode_cls_token", "cls")],
)
def test_pooling_is_that_of_the_teacher_unless_set(tmp_path, mode, pooling):
    directory = make_teacher(tmp_path / "teacher")
    modes = dict.fromkeys(["pooling_mode_mean_tokens", "pooling_mode_max_tokens", "pooling_mode_cls_token"], False)
    write_json(directory / "1_Pooling" / "config.json", modes | {mode: True, "word_embedding_dimension": 24})
    assert describe(TeacherConfig(name=str(directory)))["pooling"] == pooling
    for wanted in ("mean", "last", "cls"):
        assert describe(TeacherConfig(name=str(directory), pooling=wanted))["pooling"] == wanted
    np.testing.assert_array_equal(embeddings(directory), embeddings(directory, pooling=pooling))


def test_pooling_without_any_word_of_it_is_the_mean(directory):
    assert describe(TeacherConfig(name=str(directory)))["pooling"] == "mean"


def test_a_pooling_that_is_not_ours_is_refused_until_one_is_set(tmp_path):
    directory = make_teacher(tmp_path / "teacher")
    write_json(directory / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})
    with pytest.raises(InputError, match="pools by pooling_mode_max_tokens") as raised:
        describe(TeacherConfig(name=str(directory)))
    assert "teacher.pooling" in raised.value.fix
    assert describe(TeacherConfig(name=str(directory), pooling="cls"))["pooling"] == "cls"


def test_a_step_after_the_pooling_is_refused_until_a_pooling_is_set(tmp_path):
    directory = make_teacher(tmp_path / "teacher")
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    types = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in steps]
    write_json(directory / "modules.json", types)
    with pytest.raises(InputError, match="goes on with Dense"):
        load_teacher(TeacherConfig(name=str(directory)))
    assert load_teacher(TeacherConfig(name=str(directory), pooling="mean")).dimension == 24
    write_json(directory / "modules.json", types[:2])
    assert load_teacher(TeacherConfig(name=str(directory))).dimension == 24
    write_json(directory / "modules.json", {"path": ""})
    with pytest.raises(InputError, match=r"modules\.json can't be read"):
        load_teacher(TeacherConfig(name=str(directory)))


@pytest.mark.parametrize(
    ("files", "length"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 9}}, 9),
        ({"tokenizer_config.json": {"model_max_length": 7}}, 7),
        ({"sentence_bert_config.json": {"max_seq_length": 9}, "tokenizer_config.json": {"model_max_length": 12}}, 9),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, 20),
        ({"sentence_bert_config.json": {"max_seq_length": None}}, 20),
    ],
)
def test_the_length_is_the_least_that_the_teachers_files_state(tmp_path, files, length):
    directory = make_teacher(tmp_path / "teacher")
    for name, values in files.items():
        write_json(directory / name, values)
    assert describe(TeacherConfig(name=str(directory)))["max_length"] == length


# Refused, and told apart


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "3"}, r"teacher\.layers asks for 3"),
        ({"layers": "-1,-4,7"}, r"teacher\.layers asks for -4, 7"),
        ({"max_length": 21}, r"teacher\.max_length is 21"),
        ({"max_length": 2}, r"teacher\.max_length is 2"),
    ],
)
def test_settings_that_the_teacher_cannot_follow_are_refused(directory, settings, message):
    with pytest.raises(InputError, match=message):
        load_teacher(TeacherConfig(name=str(directory), **settings))


def test_a_description_changes_with_everything_that_an_embedding_depends_on(directory, tmp_path):
    others = [make_teacher(tmp_path / case, case) for case in ("distilbert", "roberta")]
    settings = [
        {},
        {"pooling": "cls"},
        {"layers": "0"},
        {"layers": "1,2"},
        {"template": "w5 {text}"},
        {"normalise": False},
        {"numbers": "bfloat16"},
        {"max_length": 9},
    ]
    descriptions = [describe(TeacherConfig(name=str(directory), **chosen)) for chosen in settings]
    descriptions += [describe(TeacherConfig(name=str(other))) for other in others]
    assert len({json.dumps(description, sort_keys=True) for description in descriptions}) == len(descriptions)
    same = {"layers": "2", "pooling": "mean", "batch_size": 7, "cache_directory": "elsewhere"}
    assert describe(TeacherConfig(name=str(directory), **same)) == descriptions[0]
    assert descriptions[0]["dimension"] == 24
