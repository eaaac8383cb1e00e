"""The lattice in PyTorch, all cells at once: the vectorised peer, eager and compiled.

Contract: `TorchLattice` computes what the plain scan of `lattice_jax.lattice.propagate` computes, from the same parameters and
firing masks, values and gradients equal to rounding; `training_step` is the whole update of the main job. Covered is what the
main job uses: weights of its own for every cell, zero walls, residual bounded updates, a held input, float32. Which cells fire
comes in as an array, so exact counts and quiescence are the caller's. Threads (`torch.set_num_threads`) and the device (`.to`)
are the caller's too.

Written for speed on CPU as PyTorch allows it: state and weights lie cell by cell, so every affine map is one `baddbmm` over
all cells; neighbours are slices of a padded field. Backward is autograd's, but for the eager neighbour sums, whose slices
autograd pads and adds once an offset.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from lattice_jax.config import Config, Face, GridConfig, LatticeConfig, LossConfig, OptimizerConfig
from lattice_jax.errors import InputError
from lattice_jax.lattice import surface
from lattice_jax.lattice.cell import DECAYED
from lattice_jax.lattice.grid import Offset, offsets

Decode = Callable[[Tensor], Tensor]
"""Codes [batch, code] to the teacher's space [batch, teacher]; frozen."""

_ACTIVITY_EPSILON = 1e-6
_SMALLEST_SQUARE = 1e-6
_COVERED = {"sharing": "cell", "walls": "zero", "injection": "held", "precision": "float32"}
_COVERED_UPDATE = {"bound": "tanh", "residual": True}


def require_covered(config: LatticeConfig) -> None:
    """Refuse settings that the PyTorch peers don't compute."""
    for room, settings, covered in (
        ("lattice", config, _COVERED),
        ("lattice.update", config.update, _COVERED_UPDATE),
    ):
        for name, value in covered.items():
            if getattr(settings, name) != value:
                raise InputError(
                    f"{room}.{name} is {getattr(settings, name)!r}",
                    expected=f"{value!r}, which is all that the PyTorch peers compute",
                    fix=f"set --config.{room}.{name} {value}, or leave the PyTorch peers out",
                )


def seen(padded: Tensor, offset: Offset) -> Tensor:
    """What every cell sees at `offset`, in a field [depth + 2, height + 2, width + 2, ...]."""
    return padded[tuple(slice(1 + step, size - 1 + step) for step, size in zip(offset, padded.shape[:3], strict=True))]


def pad(field: Tensor) -> Tensor:
    """`field` with one layer of zeros beyond every wall."""
    return F.pad(field, (0, 0) * (field.ndim - 3) + (1, 1) * 3)


def plain_neighbour_sum(weights: Tensor, field: Tensor, around: tuple[Offset, ...]) -> Tensor:
    """sum_k weights_k * shift_k(field), for weights [d, h, w, offset, channel] and a field [d, h, w, batch, channel]."""
    padded = pad(field)
    total = weights[..., 0, None, :] * seen(padded, around[0])
    for k, offset in enumerate(around[1:], 1):
        total = torch.addcmul(total, weights[..., k, None, :], seen(padded, offset))
    return total


class NeighbourSum(torch.autograd.Function):
    """`plain_neighbour_sum` with a backward pass that adds into one padded buffer instead of padding once an offset."""

    @staticmethod
    def forward(ctx, weights: Tensor, field: Tensor, around: tuple[Offset, ...]) -> Tensor:
        ctx.save_for_backward(weights, field)
        ctx.around = around
        padded = pad(field)
        total = weights[..., 0, None, :] * seen(padded, around[0])
        for k, offset in enumerate(around[1:], 1):
            total.addcmul_(weights[..., k, None, :], seen(padded, offset))
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, field = ctx.saved_tensors
        padded = pad(field)
        to_padded = torch.zeros_like(padded)
        to_weights = []
        for k, offset in enumerate(ctx.around):
            to_weights.append((gradient * seen(padded, offset)).sum(-2))
            seen(to_padded, offset).addcmul_(weights[..., k, None, :], gradient)
        return torch.stack(to_weights, -2), seen(to_padded, ctx.around[0]), None


def affine(parameters: Mapping[str, Tensor], name: str, values: Tensor) -> Tensor:
    """Every cell's values [d, h, w, batch, inner] times its own kernel, plus its bias."""
    kernel, bias = parameters[f"{name}_kernel"], parameters[f"{name}_bias"]
    product = torch.baddbmm(bias.flatten(0, 2)[:, None], values.flatten(0, 2), kernel.flatten(0, 2))
    return product.unflatten(0, values.shape[:3])


def normalise(values: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square normalisation with every cell's own scale."""
    return F.rms_norm(values, values.shape[-1:], eps=epsilon) * scale[..., None, :]


def lattice_step(
    parameters: Mapping[str, Tensor],
    visible: Tensor,
    memory: Tensor,
    fires: Tensor,
    injected: Tensor,
    at_input: Tensor,
    *,
    config: LatticeConfig,
    mix: Callable[[Tensor, Tensor, tuple[Offset, ...]], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """The next visible and memory channels, and the step's two sums of squares [2, batch]."""
    cell = config.cell
    epsilon = cell.normalisation_epsilon
    perceived = mix(parameters["perception"], visible, offsets(cell.perception))
    around = normalise(torch.cat([perceived, memory], -1), parameters["content_scale"], epsilon)
    own = normalise(torch.cat([visible, memory], -1), parameters["message_scale"], epsilon)
    content = F.gelu(affine(parameters, "content", around), approximate="tanh")
    message = F.gelu(affine(parameters, "message", own), approximate="tanh")
    message = normalise(message, parameters["gate_scale"], epsilon)
    gate = 1 + mix(parameters["gate"], message, offsets(cell.gate)) + parameters["gate_bias"][..., None, :]
    proposed = affine(parameters, "candidate", content * gate)
    forget = torch.sigmoid(affine(parameters, "memory", torch.cat([proposed, memory], -1)))
    change = parameters["step_size"][..., None, :] * torch.tanh(proposed + perceived - visible)
    moved = torch.where(at_input, injected, visible + fires * change)
    changed, present = (moved - visible).square(), moved.detach().square()
    squares = torch.stack([changed.sum((0, 1, 2, 4)), present.sum((0, 1, 2, 4))])
    return moved, memory + fires * forget * (proposed - memory), squares


class Faces(torch.nn.Module):
    """Injection and read-out of one cube: vectors [batch, size] to its input face, and from its output face."""

    def __init__(self, injection: np.ndarray, read_out: np.ndarray, config: LatticeConfig):
        super().__init__()
        self.injection = torch.nn.Parameter(torch.tensor(injection))
        self.read_out = torch.nn.Parameter(torch.tensor(read_out))
        self.config = config

    def inject(self, vectors: Tensor) -> Tensor:
        """Visible channels of the input face, as a grid 1 cell thick."""
        shape = surface.face_shape(self.config.input_face, self.config.grid)
        return vectors.reshape(len(vectors), *shape, -1).movedim(0, 3) @ self.injection

    def read(self, visible: Tensor) -> Tensor:
        """The vectors read at the output face."""
        values = take_face(visible, self.config.output_face, self.config.grid) @ self.read_out
        return values.movedim(3, 0).flatten(1)


class TorchLattice(torch.nn.Module):
    """The cube of `lattice_jax.lattice.cube`, with its parameters (unpadded, by their names there) as start values."""

    def __init__(
        self,
        parameters: Mapping[str, np.ndarray],
        config: LatticeConfig,
        compiled: bool,
        *,
        checkpoint: bool = False,
        adjoint: bool | None = None,
    ):
        """`compiled` compiles one lattice step, in half a minute for training at the first call with new shapes.

        `checkpoint` recomputes each step in the backward pass instead of storing what it held. `adjoint` takes `NeighbourSum`
        for the neighbour sums, False leaves their backward pass to autograd; None takes what measured faster, which is the
        adjoint when eager and autograd when compiled.
        """
        require_covered(config)
        super().__init__()
        self.faces = Faces(parameters["injection"], parameters["read_out"], config)
        cells = {name: torch.tensor(value) for name, value in parameters.items() if name not in ("injection", "read_out")}
        self.cells = torch.nn.ParameterDict(cells)
        self.register_buffer("at_input", torch.tensor(np.asarray(surface.face_mask(config.input_face, config.grid))))
        self.config, self.checkpoint = config, checkpoint
        mix = NeighbourSum.apply if (not compiled if adjoint is None else adjoint) else plain_neighbour_sum
        step = functools.partial(lattice_step, config=config, mix=mix)
        self._step = torch.compile(step, dynamic=False, fullgraph=True) if compiled else step

    def forward(self, injected: Tensor, fires: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Visible and memory channels after len(fires) steps, and every step's sums of squares [steps, 2, batch].

        `injected`: visible channels of the input face [d, h, w, batch, visible], 1 cell thick along the face's axis. `fires`:
        [steps, #d, #h, #w, #batch, 1].
        """
        cells, at_input = dict(self.cells), self.at_input[..., None, None]
        nothing = injected.new_zeros(*self.at_input.shape, injected.shape[3], self.config.cell.visible)
        visible, memory, squares = torch.where(at_input, injected, nothing), nothing, []
        for fired in fires:
            arguments = cells, visible, memory, fired, injected, at_input
            if self.checkpoint:
                visible, memory, sums = recompute_in_backward(self._step, *arguments, use_reentrant=False)
            else:
                visible, memory, sums = self._step(*arguments)
            squares.append(sums)
        return visible, memory, torch.stack(squares)

    def decayed(self) -> list[torch.nn.Parameter]:
        """The matrices, which weight decay may shrink."""
        return [self.cells[name] for name in sorted(DECAYED)]

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the last backward pass, by the names and in the layout of the parameters."""
        return {name: parameter.grad.cpu().numpy() for name, parameter in (*self.cells.items(), *self.faces.named_parameters())}


def take_face(field: Tensor, face: Face, grid: GridConfig) -> Tensor:
    """The cells of one face of a field [depth, height, width, ...]."""
    axis, size = surface.AXIS[face], (grid.depth, grid.height, grid.width)[surface.AXIS[face]]
    return field.narrow(axis, surface.face_slice(face, size).start, 1)


def cosine_distance(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine similarity by row, squared norms held above 1e-6."""
    norms = [values.square().sum(-1, keepdim=True).clamp(min=_SMALLEST_SQUARE).sqrt() for values in (predictions, targets)]
    return 1 - ((predictions / norms[0]) * (targets / norms[1])).sum(-1)


def objective(
    lattice: torch.nn.Module, batch: Mapping[str, Tensor], fires: Tensor, decode: Decode, config: LossConfig
) -> Tensor:
    """The three weighted losses of the cube, from codes `question` and `target` and embeddings `answer`.

    `lattice` is a `TorchLattice`, or a module with its interface.
    """
    visible, _, squares = lattice(lattice.faces.inject(batch["question"]), fires)
    read = lattice.faces.read(visible)
    activity = squares[:, 0] / (squares[:, 1] + _ACTIVITY_EPSILON)
    return (
        config.surface_reconstruction * F.mse_loss(read, batch["target"])
        + config.internal_consistency * activity[-config.consistency_steps :].mean()
        + config.dialogue_similarity * cosine_distance(decode(read), batch["answer"]).mean()
    )


def make_optimizer(lattice: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW in one fused kernel, at the peak rate; weight decay on the cells' matrices alone."""
    matrices = lattice.decayed()
    chosen = set(map(id, matrices))
    others = [parameter for parameter in lattice.parameters() if id(parameter) not in chosen]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.first_moment_decay, config.second_moment_decay),
        fused=True,
    )


def training_step(
    lattice: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    fires: Tensor,
    decode: Decode,
    config: Config,
) -> Tensor:
    """Forward, the three losses, backward, clipping by the global norm, one update; the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = objective(lattice, batch, fires, decode, config.loss)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(lattice.parameters(), config.optimizer.gradient_clip)
    optimizer.step()
    return loss.detach()
