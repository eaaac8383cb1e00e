"""The arrows of the house: who may import whom, and how large a room may be.

errors, config, records, native <- lattice | teachers | corpus <- training (reads lattice) <- evaluation (reads training)
<- joining rooms <- bin
"""

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
PACKAGE = "lattice_jax"
GROUND = {"errors", "config", "records", "native"}
WINGS = {"lattice", "teachers", "corpus", "training", "evaluation"}
JOINING = {
    "adaptation",
    "alignment",
    "commandline",
    "edge_cases",
    "embedding",
    "endurance",
    "ensemble",
    "experiment",
    "figures",
    "inquiry",
    "material",
    "observation",
    "plan",
    "plan_record",
    "run",
    "stacking",
    "sweep",
    "trial",
}

MAY_IMPORT = {
    "errors": set(),
    "records": {"errors"},
    "config": {"errors", "config"},
    "native": {"errors", "native"},
    "lattice": {*GROUND, "lattice"},
    "teachers": {*GROUND, "teachers"},
    "corpus": {*GROUND, "corpus"},
    "training": {*GROUND, "lattice", "training"},
    "evaluation": {*GROUND, "training", "evaluation"},
    "commandline": {*GROUND, *WINGS},
    "embedding": {*GROUND, *WINGS, "commandline"},
    "stacking": {*GROUND, "lattice", "evaluation"},
    "alignment": {*GROUND, "lattice", "evaluation"},
    "endurance": {*GROUND, *WINGS, "stacking"},
    "material": {*GROUND, "corpus", "teachers", "evaluation"},
    "adaptation": {*GROUND, *WINGS, "alignment", "material"},
    "edge_cases": {*GROUND, "corpus", "teachers", "evaluation", "material"},
    "experiment": {*GROUND, *WINGS, "commandline", "edge_cases", "inquiry", "material", "stacking"},
    "inquiry": {*GROUND, *WINGS, "material"},
    "observation": {*GROUND, *WINGS, "inquiry", "material"},
    "run": {
        *GROUND,
        *WINGS,
        "adaptation",
        "commandline",
        "edge_cases",
        "embedding",
        "endurance",
        "experiment",
        "material",
        "observation",
        "stacking",
    },
    "trial": {*GROUND, *WINGS, "adaptation", "commandline", "embedding", "experiment", "material", "stacking"},
    "plan_record": {*GROUND, "commandline"},
    "figures": {*GROUND, *WINGS, "edge_cases", "endurance", "experiment", "trial"},
    "plan": {*GROUND, *WINGS, "commandline", "figures", "plan_record", "run", "trial"},
    "sweep": {*GROUND, *WINGS, "commandline", "experiment", "material", "run", "trial"},
    "ensemble": {*GROUND, *WINGS, "commandline", "experiment", "material", "run"},
    "bin": {"run", "embedding", "ensemble", "plan", "sweep", "commandline", "config", "errors"},
    "configs": {"config"},
}


def imported_modules(source: str, module: str) -> set[str]:
    """Dotted names of all that `source` imports, anywhere in it; `module` is its own dotted name, for relative imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def rooms_of(modules: set[str]) -> set[str]:
    """The wings or top-level modules of the package among `modules`; the bare package would open them all."""
    own = [name.split(".") for name in modules if name.split(".")[0] == PACKAGE]
    return {parts[1] if len(parts) > 1 else "*" for parts in own}


def forbidden_imports(source: str, module: str, room: str) -> set[str]:
    """Rooms that `source` imports and `room` may not."""
    return rooms_of(imported_modules(source, module)) - MAY_IMPORT[room]


def modules_of_the_package() -> list[Path]:
    return sorted((HOUSE / PACKAGE).rglob("*.py"))


def programs() -> list[Path]:
    return sorted(path for path in (HOUSE / "bin").iterdir() if path.is_file())


def room_of(path: Path) -> str:
    """The wing or the top-level module that a file of the package belongs to."""
    return path.relative_to(HOUSE / PACKAGE).with_suffix("").parts[0]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts)


def name_of(path: Path) -> str:
    return str(path.relative_to(HOUSE))


@pytest.mark.parametrize("path", modules_of_the_package(), ids=name_of)
def test_every_module_imports_downward_only(path):
    room = room_of(path)
    if room == "__init__":
        assert rooms_of(imported_modules(path.read_text(), dotted(path))) == set()
    else:
        assert forbidden_imports(path.read_text(), dotted(path), room) == set()


@pytest.mark.parametrize("path", programs(), ids=name_of)
def test_programs_parse_call_and_print(path):
    source = path.read_text()
    assert forbidden_imports(source, path.stem, "bin") == set()
    assert len(source.splitlines()) < 60


@pytest.mark.parametrize("path", sorted((HOUSE / "configs").glob("*.py")), ids=name_of)
def test_configurations_know_the_settings_alone(path):
    assert forbidden_imports(path.read_text(), path.stem, "configs") == set()


@pytest.mark.parametrize("path", modules_of_the_package(), ids=name_of)
def test_no_room_is_larger_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_room_has_its_arrows():
    rooms = {room_of(path) for path in modules_of_the_package()} - {"__init__"}
    assert rooms == set(MAY_IMPORT) - {"bin", "configs"} == GROUND | WINGS | JOINING


@pytest.mark.parametrize(
    ("room", "source", "forbidden"),
    [
        ("errors", "from lattice_jax.config import Config", {"config"}),
        ("config", "import lattice_jax.lattice.grid", {"lattice"}),
        ("lattice", "from lattice_jax.teachers.embed import encode", {"teachers"}),
        ("lattice", "def late():\n    from lattice_jax.corpus import pairs", {"corpus"}),
        ("lattice", "from lattice_jax import training", {"training"}),
        ("lattice", "from ..training import loop", {"training"}),
        ("lattice", "from .. import evaluation", {"evaluation"}),
        ("teachers", "from lattice_jax.lattice import cell", {"lattice"}),
        ("teachers", "import importlib\nimportlib.import_module('lattice_jax.corpus.pairs')", {"corpus"}),
        ("corpus", "import numpy, lattice_jax.teachers.cache as cache", {"teachers"}),
        ("training", "from lattice_jax.evaluation.similarity import measure", {"evaluation"}),
        ("training", "from lattice_jax.corpus.corpus import Corpus", {"corpus"}),
        ("training", "from lattice_jax.teachers import bert", {"teachers"}),
        ("evaluation", "from lattice_jax.teachers import bert", {"teachers"}),
        ("evaluation", "from lattice_jax.corpus import pairs", {"corpus"}),
        ("evaluation", "from lattice_jax import experiment, run", {"experiment", "run"}),
        ("training", "from lattice_jax import commandline", {"commandline"}),
        ("lattice", "import lattice_jax", {"*"}),
        ("experiment", "from lattice_jax import run", {"run"}),
        ("experiment", "from lattice_jax import observation", {"observation"}),
        ("bin", "from lattice_jax.lattice import cube", {"lattice"}),
        ("bin", "from lattice_jax import experiment", {"experiment"}),
        ("embedding", "from lattice_jax import run", {"run"}),
        ("configs", "from lattice_jax.training.loop import fit", {"training"}),
    ],
)
def test_a_planted_import_against_the_arrows_is_found(room, source, forbidden):
    assert forbidden_imports(source, f"lattice_jax.{room}.planted", room) == forbidden


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("lattice", "from lattice_jax.config import Face\nfrom . import grid\nfrom ..errors import InputError"),
        ("training", "from lattice_jax.lattice import cube\nimport optax"),
        ("evaluation", "from lattice_jax.training.monitor import read_metrics"),
        ("bin", "import launcher\nfrom lattice_jax import run\nfrom lattice_jax.config import Config"),
        ("teachers", '"""Unlike lattice_jax.lattice, this wing reads text."""\nimport lattice_jaxed'),
    ],
)
def test_an_import_along_the_arrows_passes(room, source):
    assert forbidden_imports(source, f"lattice_jax.{room}.planted", room) == set()
