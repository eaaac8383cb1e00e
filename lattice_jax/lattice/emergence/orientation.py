"""Which way a cube is looked at: layers follow each other from the input face on, whichever face that is.

Contract: `turned` is applied once to everything that has cells for axes, where it is observed (`observe`, and `respond` for
what it adds up by layer); all that comes later takes the first axis of cells as the layer, 0 the input face. The last layer is
the face opposite it: the output face, unless input and output share an edge (`output_is_a_layer`), where the output face cuts
through all layers.
"""

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice.grid import Cells
from lattice_jax.lattice.surface import AXIS, axes_from_face, from_face

AXES = ("depth", "height", "width")


def layer_axis(config: LatticeConfig) -> int:
    """The grid's axis along which the signal enters."""
    return AXIS[config.input_face]


def output_is_a_layer(config: LatticeConfig) -> bool:
    """Whether the output face lies opposite the input face."""
    return AXIS[config.output_face] == layer_axis(config)


def turned_axes(config: LatticeConfig) -> list[str]:
    """The grid's axes in the order in which they lie after turning: the layers' axis, then the other two as they were."""
    return [AXES[axis] for axis in axes_from_face(config.input_face)]


def turned(field: Cells, config: LatticeConfig, *, first: int = 0) -> Cells:
    """The field with its layers in front, from the input face on; depth, height and width are axes `first` to `first + 2`.

    A cube whose front is its input stays as it is.
    """
    return from_face(field, config.input_face, first=first)
