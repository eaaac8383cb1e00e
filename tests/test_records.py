"""Records read again: a damaged one is one clear message, whatever is wrong with it."""

import json
import re

import pytest

from lattice_jax.errors import InputError
from lattice_jax.records import read_record, require_fields


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"seed": ', "can't be read: Expecting value"),
        (b"", "can't be read: Expecting value"),
        (b'{"name": "\xff"}', "can't be read: 'utf-8' codec"),
        (b"[]", "it holds a list, no object"),
        (b"3", "it holds a number, no object"),
        (b"1" * 5000, "can't be read: Exceeds the limit"),
        (b"[" * 100_000, "can't be read: "),
        (b"{}", "it has no plan.stages"),
        (b'{"plan": []}', "it has no plan.stages"),
        (b'{"plan": {"stages": {}}}', "plan.stages is an object"),
        (b'{"plan": {"stages": null}}', "plan.stages is null"),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path, content, told):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(told)) as refused:
        read_record(path, {"plan.stages": list}, expected="a plan", fix="mend it")
    assert str(path) in refused.value.found
    assert refused.value.fix == "mend it"


@pytest.mark.parametrize("directory", [True, False])
def test_a_record_that_is_no_file_is_refused(tmp_path, directory):
    path = tmp_path / "plan.json"
    if directory:
        path.mkdir()
    with pytest.raises(InputError, match="there is no file"):
        read_record(path)


def test_a_whole_record_comes_back_as_it_was_written(tmp_path):
    record = {"seed": 3, "verdict": None, "nested": {"rate": 0.5, "names": ["é"]}}
    (tmp_path / "record.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    fields = {"seed": int, "verdict": object, "nested.rate": int | float, "nested.names": list}
    assert read_record(tmp_path / "record.json", fields) == record


def test_fields_of_a_part_are_refused_by_where_it_is():
    with pytest.raises(InputError, match="attempt 2 of the plan can't be read: it has no stage"):
        require_fields({}, {"stage": str}, "attempt 2 of the plan")
