"""What can be measured: one workload at one setting.

Contract: a `Case` is plain data, so that it can be handed to the process that runs it.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lattice_jax.config import Config, CorpusConfig, LatticeConfig, TrainingConfig
from lattice_jax.lattice.firing import Read

ROOT = Path(__file__).resolve().parents[2]

Kind = Literal[
    *("training", "forward", "latency", "dense"),
    *("torch eager", "torch adjoint", "torch compiled", "cell modules", "cax"),
]
"""'training': the whole training step. 'forward': codes to codes. 'latency': one question's embedding to its answer's. 'dense':
the device's fastest large matrix product. The others are training steps of peers."""

REFERENCE = Config(
    corpus=CorpusConfig(sentences="none"),
    lattice=LatticeConfig(steps=11, minimum_arrival=0.01),
    training=TrainingConfig(batch_size=32),
)
"""What all speeds are quoted at: the full cube, 11 steps, batch 32."""


@dataclass(frozen=True)
class Case:
    """One workload; its batch size is `config.training.batch_size`."""

    kind: Kind
    config: Config
    read: Read = "output"
    """What a forward pass is read at; training reads what its losses need."""
    cores: int = 0
    """CPU cores that the process may use, 0 for all; the cells are then spread over as many threads or devices."""
    without_tunables: tuple[str, ...] = ()
    """Those of the launcher's glibc settings that the process is started without."""
    donate: bool = True
    check: Config | None = None
    """Loss and gradients must first equal those of this configuration, on a small cube."""

    @property
    def batch(self) -> int:
        """Samples a repeat."""
        return 1 if self.kind == "latency" else self.config.training.batch_size

    @property
    def trains(self) -> bool:
        """Whether a repeat is a training step."""
        return self.kind not in ("forward", "latency", "dense")

    @property
    def sampled(self) -> bool:
        """Whether firing masks are drawn: in training, and for inference where it is set so."""
        return self.trains or self.config.lattice.update.evaluation == "sampled"


def with_lattice(config: Config, **changes) -> Config:
    """The configuration with other `lattice` settings; whether a signal then arrives does not matter to its speed."""
    return dataclasses.replace(config, lattice=dataclasses.replace(config.lattice, **{"minimum_arrival": 0.0} | changes))


def with_update(config: Config, **changes) -> Config:
    """The configuration with other `lattice.update` settings."""
    return with_lattice(config, update=dataclasses.replace(config.lattice.update, **changes))


def with_batch(config: Config, batch: int) -> Config:
    """The configuration at another batch size; a micro-batch that does not divide it is dropped."""
    micro = config.training.micro_batch
    training = dataclasses.replace(config.training, batch_size=batch, micro_batch=micro if micro and batch % micro == 0 else 0)
    return dataclasses.replace(config, training=training)


def small(config: Config) -> Config:
    """The same rule on a cube that takes a second: for checks of values, not of speed."""
    lattice = config.lattice
    grid = dataclasses.replace(lattice.grid, depth=4, height=5, width=5)
    cell = dataclasses.replace(lattice.cell, visible=8, memory=8, hidden=16, parameter_budget=0)
    return with_batch(with_lattice(config, grid=grid, cell=cell, steps=8), 4)
