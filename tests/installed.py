"""Packages for the tests: corpora as they lie on disk, with text invented here."""

import pytest


def write_files(root, files):
    """Files below `root`, by their paths."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def install_debian(tmp_path, monkeypatch):
    """Put files of Debian packages where the readers look."""
    monkeypatch.setenv("LATTICE_JAX_DEBIAN_ROOT", str(tmp_path / "root"))
    return lambda files: write_files(tmp_path / "root", files)


@pytest.fixture
def install_python(tmp_path, monkeypatch):
    """Install a Python package with these files, as pip would, in front of what is installed."""

    def install(package, files):
        record = f"{package.replace('-', '_')}-9.9.dist-info"
        metadata = f"Metadata-Version: 2.4\nName: {package}\nVersion: 9.9\n"
        listed = "".join(f"{name},,\n" for name in [*files, f"{record}/METADATA", f"{record}/RECORD"])
        write_files(tmp_path / "site", {**files, f"{record}/METADATA": metadata, f"{record}/RECORD": listed})
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install
