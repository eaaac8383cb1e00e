"""The cube spread over devices: every device holds some rows of cells, and sees one row of each neighbour's.

Contract: cells are divided along the height, so unshared weights, their gradients and their optimiser state never travel; only
rows one cell thick do, at every step. A height that the devices do not divide is padded with rows that never fire and that no
cell sees: padding changes nothing. On CPU one virtual device a core is what keeps all cores busy: XLA:CPU computes a batched
product on one.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from lattice_jax.config import Engine, GridConfig, LatticeConfig, Walls
from lattice_jax.errors import SettingsError
from lattice_jax.lattice.fused.step import obstacle, require
from lattice_jax.lattice.grid import extend_axis

AXIS = "height"


def rows_per_device(grid: GridConfig, devices: int) -> int:
    """Rows that each device holds, the last one perhaps fewer."""
    return -(-grid.height // devices)


def engine(config: LatticeConfig) -> Engine:
    """What computes the steps here: `lattice.engine`, or what is fastest where that is "automatic".

    Raises SettingsError where the engine asked for can't compute this cube on this device.
    """
    backend = jax.default_backend()
    compiled = config.precision == "float32" and backend == "cpu"
    if config.engine == "automatic":
        return "native" if compiled else "fused" if obstacle(config) is None else "scan"
    if config.engine == "native" and not compiled:
        raise SettingsError(
            f"lattice.engine is 'native', with precision {config.precision!r} on {backend}",
            expected="numbers in float32, on the CPU",
            fix="set --config.lattice.engine automatic",
        )
    if config.engine == "fused":
        require(config)
    return config.engine


def cell_mesh(config: LatticeConfig) -> Mesh | None:
    """The devices that the cells are spread over, or None where one is enough; devices that would get no row stay out.

    The native engine is on one device and spreads the cells over threads.
    """
    if engine(config) == "native":
        return None
    available = jax.devices()
    if config.devices > len(available):
        raise SettingsError(
            f"lattice.devices is {config.devices}, and there are {len(available)} ({available[0].platform})",
            expected="a number of devices that this program has",
            fix="lower --config.lattice.devices, or set it to 0 for all there are",
        )
    wanted = min(config.devices or len(available), config.grid.height)
    used = -(-config.grid.height // rows_per_device(config.grid, wanted))
    if used == 1:
        return None
    return jax.make_mesh((used,), (AXIS,), axis_types=(AxisType.Auto,), devices=available[:used])


def padded_height(grid: GridConfig, mesh: Mesh) -> int:
    """Rows of all devices together."""
    return rows_per_device(grid, mesh.size) * mesh.size


def pad_rows(field: Array, axis: int, grid: GridConfig, mesh: Mesh) -> Array:
    """Zero rows added so that the devices divide the height; an axis of size 1 is shared by all rows and stays."""
    if field.shape[axis] == 1:
        return field
    after = padded_height(grid, mesh) - field.shape[axis]
    return jnp.pad(field, [(0, after if a == axis else 0) for a in range(field.ndim)])


def row_partition(field: Array, axis: int) -> PartitionSpec:
    """How a field lies on the devices: divided along its rows, or whole on each where it has one row for all."""
    return PartitionSpec() if field.shape[axis] == 1 else PartitionSpec(*[None] * axis, AXIS)


def placed(tree, grid: GridConfig, mesh: Mesh | None):
    """What `place` gives of these parameters, or of their description, by shape, type and placement; nothing is computed."""
    if mesh is None:
        return tree

    def describe(leaf: Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        padded = jax.eval_shape(lambda leaf: pad_rows(leaf, 1, grid, mesh), leaf)
        return jax.ShapeDtypeStruct(padded.shape, padded.dtype, sharding=NamedSharding(mesh, row_partition(padded, 1)))

    return jax.tree.map(describe, tree)


def place(tree, grid: GridConfig, mesh: Mesh | None):
    """Parameters (leading axes depth, height, width) padded and put where their cells are computed."""
    if mesh is None:
        return tree
    where = placed(tree, grid, mesh)
    return jax.tree.map(lambda leaf, to: jax.device_put(pad_rows(leaf, 1, grid, mesh), to.sharding), tree, where)


def collect(tree, grid: GridConfig):
    """The inverse of `place`: parameters without padding."""
    return jax.tree.map(lambda leaf: leaf[:, : grid.height], tree)


def extend_across(
    field: Float[Array, "d h w ..."], *, walls: Walls, height: int, devices: int
) -> Float[Array, "d+2 h+2 w+2 ..."]:
    """`grid.extend` on one device's rows, inside `shard_map`: the rows beyond come from the neighbouring devices.

    `height` is that of the whole grid. On the last device the wall stands after its last real row, before any padding.
    """
    index, last, rows = jax.lax.axis_index(AXIS), devices - 1, field.shape[1]
    real = height - last * rows
    lowest = jnp.where(index == last, field[:, real - 1 : real], field[:, -1:])
    before = jax.lax.ppermute(lowest, AXIS, [(i, (i + 1) % devices) for i in range(devices)])
    after = jax.lax.ppermute(field[:, :1], AXIS, [(i, (i - 1) % devices) for i in range(devices)])
    extended = jnp.concatenate([before, field, after], 1)
    row = functools.partial(jax.lax.dynamic_slice_in_dim, extended, slice_size=1, axis=1)
    nothing = jnp.zeros_like(before)
    above = {"zero": nothing, "periodic": before, "reflect": row(2), "edge": row(1)}[walls]
    below = {"zero": nothing, "periodic": after, "reflect": row(real - 1), "edge": row(real)}[walls]
    above = jnp.where(index == 0, above, row(0))
    below = jnp.where(index == last, below, row(real + 1))
    extended = jnp.concatenate([above, extended[:, 1 : real + 1], below, extended[:, real + 2 :]], 1)
    return extend_axis(extend_axis(extended, 0, walls), 2, walls)


def real_rows(field: Float[Array, "d h w ..."], *, height: int, devices: int) -> Float[Array, "d h w ..."]:
    """One device's rows with zeros in the padding, inside `shard_map`."""
    row = jax.lax.axis_index(AXIS) * field.shape[1] + jnp.arange(field.shape[1])
    return jnp.where((row < height).reshape(1, -1, *[1] * (field.ndim - 2)), field, jnp.zeros((), field.dtype))
