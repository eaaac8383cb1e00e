"""The lattice as one PyTorch module a cell, stepped in a Python loop over the cells: the historical way, and what it costs.

Contract: `CellModules` takes the parameters and gives the values and gradients of `torch_lattice.TorchLattice`, which it can
replace in `torch_lattice.training_step`. Every cell owns its layers, gathers its neighbours one by one and is computed on its
own, so a lattice step of 2,475 cells takes some 100,000 operations: meant to be timed for one lattice step, whose cost doesn't
depend on which step it is.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lattice_jax.config import CellConfig, LatticeConfig
from lattice_jax.lattice import surface
from lattice_jax.lattice.cell import hidden_width
from lattice_jax.lattice.grid import Offset, offsets

from .torch_lattice import Faces, require_covered

Position = tuple[int, int, int]
Field = dict[Position, Tensor]
"""One tensor [batch, channel] a cell."""

_NORMS = {"content_scale": "content_norm", "message_scale": "message_norm", "gate_scale": "gate_norm"}
_LINEAR = ("content", "message", "candidate", "memory")
_OWN = ("perception", "gate", "gate_bias", "step_size")


class Cell(torch.nn.Module):
    """One cell with its own weights; `parameters` are its own, without the grid's axes."""

    def __init__(self, parameters: Mapping[str, np.ndarray], config: CellConfig):
        super().__init__()
        inner, hidden, epsilon = config.visible + config.memory, hidden_width(config), config.normalisation_epsilon
        self.content_norm = torch.nn.RMSNorm(inner, eps=epsilon)
        self.message_norm = torch.nn.RMSNorm(inner, eps=epsilon)
        self.gate_norm = torch.nn.RMSNorm(hidden, eps=epsilon)
        self.content = torch.nn.Linear(inner, hidden)
        self.message = torch.nn.Linear(inner, hidden)
        self.candidate = torch.nn.Linear(hidden, config.visible)
        self.memory = torch.nn.Linear(inner, config.memory)
        for name in _OWN:
            self.register_parameter(name, torch.nn.Parameter(torch.tensor(parameters[name])))
        with torch.no_grad():
            for name, values in self.in_package_layout():
                values.copy_(torch.tensor(parameters[name]))

    def in_package_layout(self, *, gradient: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Views of the parameters, or of their gradients, by the package's names and in its layout."""

        def read(parameter: Tensor) -> Tensor:
            # A weight that nothing depends on yet, as the gate's in a first step, has no gradient.
            return (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad) if gradient else parameter

        for name in _OWN:
            yield name, read(getattr(self, name))
        for name, norm in _NORMS.items():
            yield name, read(getattr(self, norm).weight)
        for name in _LINEAR:
            layer = getattr(self, name)
            yield f"{name}_kernel", read(layer.weight).T
            yield f"{name}_bias", read(layer.bias)

    def say(self, visible: Tensor, memory: Tensor) -> Tensor:
        """The message to the neighbours, from the cell's own state [batch, channel]."""
        own = self.message_norm(torch.cat([visible, memory], -1))
        return self.gate_norm(F.gelu(self.message(own), approximate="tanh"))

    def move(
        self, visible: Tensor, memory: Tensor, fires: Tensor, neighbours: list[Tensor], messages: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The next visible and memory channels, from the neighbours' visible channels and messages."""
        perceived = (self.perception[:, None] * torch.stack(neighbours)).sum(0)
        around = self.content_norm(torch.cat([perceived, memory], -1))
        content = F.gelu(self.content(around), approximate="tanh")
        gate = 1 + (self.gate[:, None] * torch.stack(messages)).sum(0) + self.gate_bias
        proposed = self.candidate(content * gate)
        forget = torch.sigmoid(self.memory(torch.cat([proposed, memory], -1)))
        change = self.step_size * torch.tanh(proposed + perceived - visible)
        return visible + fires * change, memory + fires * forget * (proposed - memory)


def gather(field: Field, position: Position, around: tuple[Offset, ...]) -> list[Tensor]:
    """What the cell sees at every offset: the neighbour's values, or zeros beyond a wall."""
    nothing = torch.zeros_like(field[position])
    places = ((position[0] + d, position[1] + h, position[2] + w) for d, h, w in around)
    return [field.get(place, nothing) for place in places]


class CellModules(torch.nn.Module):
    """A cube of `Cell` modules, with the parameters of `lattice_jax.lattice.cube` (unpadded) as start values."""

    def __init__(self, parameters: Mapping[str, np.ndarray], config: LatticeConfig):
        require_covered(config)
        super().__init__()
        self.faces = Faces(parameters["injection"], parameters["read_out"], config)
        self.config, grid = config, config.grid
        self.positions: list[Position] = list(np.ndindex(grid.depth, grid.height, grid.width))
        names = [name for name in parameters if name not in ("injection", "read_out")]
        self.cells = torch.nn.ModuleList(
            Cell({name: parameters[name][position] for name in names}, config.cell) for position in self.positions
        )
        self.input_cells = {tuple(index) for index in np.argwhere(surface.face_mask(config.input_face, grid)).tolist()}

    def forward(self, injected: Tensor, fires: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `TorchLattice.forward`: the fields after len(fires) steps, and every step's sums of squares."""
        grid, cell = self.config.grid, self.config.cell
        shape = (grid.depth, grid.height, grid.width)
        batch = injected.shape[3]
        spread = injected.expand(*shape, -1, -1)
        nothing = {
            name: injected.new_zeros(batch, channels) for name, channels in (("visible", cell.visible), ("memory", cell.memory))
        }
        visible = {at: spread[at] if at in self.input_cells else nothing["visible"] for at in self.positions}
        memory = dict.fromkeys(self.positions, nothing["memory"])
        squares = []
        for fired in fires:
            before = visible
            visible, memory = self._step(visible, memory, fired.expand(*shape, batch, 1))
            visible |= {at: spread[at] for at in self.input_cells}
            squares.append(self._squares(before, visible))
        fields = (torch.stack([field[at] for at in self.positions]).unflatten(0, shape) for field in (visible, memory))
        return *fields, torch.stack(squares)

    def _step(self, visible: Field, memory: Field, fires: Tensor) -> tuple[Field, Field]:
        seen, heard = offsets(self.config.cell.perception), offsets(self.config.cell.gate)
        cells = dict(zip(self.positions, self.cells, strict=True))
        said = {at: cell.say(visible[at], memory[at]) for at, cell in cells.items()}
        moved = {
            at: cell.move(visible[at], memory[at], fires[at], gather(visible, at, seen), gather(said, at, heard))
            for at, cell in cells.items()
        }
        return {at: pair[0] for at, pair in moved.items()}, {at: pair[1] for at, pair in moved.items()}

    def _squares(self, before: Field, after: Field) -> Tensor:
        changed = [(after[at] - before[at]).square().sum(-1) for at in self.positions]
        present = [after[at].detach().square().sum(-1) for at in self.positions]
        return torch.stack([torch.stack(changed).sum(0), torch.stack(present).sum(0)])

    def decayed(self) -> list[torch.nn.Parameter]:
        """The matrices, which weight decay may shrink."""
        return [getattr(cell, name).weight for cell in self.cells for name in _LINEAR]

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the last backward pass, by the names and in the layout of the package's parameters."""
        grid = self.config.grid
        cells = [dict(cell.in_package_layout(gradient=True)) for cell in self.cells]
        stacked = {name: np.stack([cell[name].cpu().numpy() for cell in cells]) for name in cells[0]}
        shape = (grid.depth, grid.height, grid.width)
        gathered = {name: values.reshape(*shape, *values.shape[1:]) for name, values in stacked.items()}
        return gathered | {name: parameter.grad.cpu().numpy() for name, parameter in self.faces.named_parameters()}
