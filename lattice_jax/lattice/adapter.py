"""The universal adapter: teacher embeddings <-> vectors for a face of the cube.

Contract: `encode` maps [batch, teacher] to [batch, code], `decode` back; both are linen methods of one `Adapter`, so one parameter tree
holds both. It is trained to reproduce embeddings before the cube is, then frozen: targets that move with the model collapse.
Start values are those of principal component analysis wherever the strategy has a linear path, so training starts near the linear optimum.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lattice_jax.config import AdapterConfig

_SHRINK = 0.7
_LINEAR_SCALE = 0.2
_LINEAR_BIAS = 2.0


def hierarchical_widths(teacher: int, code: int) -> tuple[int, ...]:
    """Layer widths from teacher to code: each 0.7 times the last while that is wider than twice the code."""
    widths = [teacher]
    while widths[-1] > 2 * code:
        widths.append(int(widths[-1] * _SHRINK))
    return (*widths, code)


class Stack(nn.Module):
    """Dense layers of the given widths, normalised and gelu-activated in between, linear at the end."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, values: Array) -> Array:
        for width in self.widths[:-1]:
            values = nn.Dense(width)(values)
            values = nn.LayerNorm(
                scale_init=nn.initializers.constant(_LINEAR_SCALE), bias_init=nn.initializers.constant(_LINEAR_BIAS)
            )(values)
            values = nn.gelu(values)
        return nn.Dense(self.widths[-1])(values)


class Attention(nn.Module):
    """Tokens of a vector attend to one another, then every token is mapped on: a vector of `size` from one of any width."""

    size: int
    tokens: int = 16
    channels: int = 64

    @nn.compact
    def __call__(self, values: Array) -> Array:
        tokens = nn.Dense(self.tokens * self.channels)(values).reshape(*values.shape[:-1], self.tokens, self.channels)
        tokens = tokens + self.param("position", nn.initializers.normal(0.02), (self.tokens, self.channels))
        tokens = tokens + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(tokens))
        mixed = tokens.reshape(*values.shape[:-1], self.tokens * self.channels)
        return nn.Dense(self.size)(values) + nn.Dense(self.size, kernel_init=nn.initializers.zeros)(mixed)


class Adapter(nn.Module):
    """Encoder and decoder of one strategy.

    hierarchical: widths shrinking by 0.7, mirrored back (45,918,613 parameters for 4096 -> 225, 1,402,797 for 768 -> 225);
    linear: one matrix each way; attention: tokens of the embedding attend to one another beside a linear path;
    autoencoder: one hidden layer of the geometric mean width each way.
    """

    teacher: int
    code: int
    strategy: str

    def setup(self):
        middle = int(np.sqrt(self.teacher * self.code))
        widths = {
            "hierarchical": hierarchical_widths(self.teacher, self.code),
            "autoencoder": (self.teacher, middle, self.code),
            "linear": (self.teacher, self.code),
        }
        if self.strategy == "attention":
            self.encoder, self.decoder = Attention(self.code), Attention(self.teacher)
        else:
            chosen = widths[self.strategy]
            self.encoder, self.decoder = Stack(chosen[1:]), Stack(chosen[-2::-1])

    def encode(self, embeddings: Array) -> Array:
        return self.encoder(embeddings)

    def decode(self, codes: Array) -> Array:
        return self.decoder(codes)

    def __call__(self, embeddings: Array) -> Array:
        return self.decode(self.encode(embeddings))
