"""Short stages, and a small base for them, for the tests of plans."""

from pathlib import Path

from program import SMOKE

from lattice_jax.commandline import load_config
from lattice_jax.config.overrides import with_settings
from lattice_jax.config.plan import Criterion, Stage

SHORT = {"training.steps": 4, "training.evaluate_every": 2, "training.checkpoint_every": 2, "adapter.steps": 4}
FALLS = Criterion("last.loss", "<", "first.loss", "it learns")


def stage(name: str, *criteria: Criterion, **fields) -> Stage:
    return Stage(name, "for the test", criteria or (FALLS,), **fields)


def smoke(**settings):
    return with_settings(load_config(Path(SMOKE)), {name.replace("__", "."): value for name, value in settings.items()})
