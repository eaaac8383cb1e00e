"""The universal adapter: teacher embeddings <-> vectors for a face of the cube.

Contract: `encode` maps [batch, teacher] to [batch, code], `decode` back; both are linen methods of one `Adapter`, so one
parameter tree holds both. It is trained to reproduce embeddings before the cube learns, then frozen in a `Codec`: targets that
move with the model collapse. `principal_start` gives start values near principal component analysis, the linear optimum.
A codec may turn the code, otherwise for questions than for answers, before it lies on a face (`Turns`).
"""

import functools
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_SHRINK = 0.7
_LINEAR_SCALE = 0.2
_LINEAR_BIAS = 2.0
_RIDGE = 1e-3


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
        position = self.param("position", nn.initializers.normal(0.02), (self.tokens, self.channels))
        tokens = tokens + jnp.broadcast_to(position, tokens.shape)
        tokens = tokens + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(tokens))
        mixed = tokens.reshape(*values.shape[:-1], self.tokens * self.channels)
        return nn.Dense(self.size, name="direct")(values) + nn.Dense(self.size, kernel_init=nn.initializers.zeros)(mixed)


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


@functools.partial(jax.jit, static_argnames=("adapter", "method"))
def _apply(adapter: Adapter, parameters: dict, values: Array | np.ndarray, method: str) -> Array:
    """`Adapter.apply`, whose declared type allows for state that no method of an adapter has.

    Compiled as a whole: operation by operation it took a second for every number of rows that it met.
    """
    return cast(Array, adapter.apply(parameters, values, method=method))


class Turns(NamedTuple):
    """Orthogonal matrices from the adapter's code to the numbers on the two faces; what a code holds, its face holds."""

    question: Float[Array, "code code"]
    answer: Float[Array, "code code"]


class Codec(NamedTuple):
    """A frozen adapter: embeddings <-> vectors whose numbers have a mean square of 1 over the text that it was trained on."""

    adapter: Adapter
    parameters: dict
    scale: float
    turns: Turns | None = None
    """How codes lie on the faces; as the adapter gives them where None."""

    def encode_questions(self, embeddings: Float[Array, "batch teacher"]) -> Float[Array, "batch code"]:
        """What the input face is shown."""
        return self._encode(embeddings) if self.turns is None else self._encode(embeddings) @ self.turns.question

    def encode_answers(self, embeddings: Float[Array, "batch teacher"]) -> Float[Array, "batch code"]:
        """What the output face should show."""
        return self._encode(embeddings) if self.turns is None else self._encode(embeddings) @ self.turns.answer

    def decode(self, codes: Float[Array, "batch code"]) -> Float[Array, "batch teacher"]:
        """The embeddings that the output face's numbers mean."""
        turned = codes if self.turns is None else codes @ self.turns.answer.T
        return _apply(self.adapter, self.parameters, turned * self.scale, "decode")

    def reproduce(self, embeddings: Float[np.ndarray, "text teacher"]) -> Float[np.ndarray, "text teacher"]:
        """What is left of embeddings once they went through the code."""
        return np.asarray(self.decode(self.encode_answers(jnp.asarray(embeddings))))

    def _encode(self, embeddings: Float[Array, "batch teacher"]) -> Float[Array, "batch code"]:
        return _apply(self.adapter, self.parameters, embeddings, "encode") / self.scale


def freeze(adapter: Adapter, parameters: dict, embeddings: Float[Array, "text teacher"]) -> Codec:
    """The adapter as a `Codec`, its scale taken from `embeddings`."""
    codes = _apply(adapter, parameters, embeddings, "encode")
    return Codec(adapter, parameters, float(jnp.sqrt(jnp.mean(jnp.square(codes)))))


def principal_start(adapter: Adapter, embeddings: np.ndarray) -> dict:
    """Start values fitted to `embeddings` [text, teacher], layer by layer, so that training starts near the linear optimum.

    Every encoder layer projects on the principal components of what reaches it; every decoder layer keeps all it gets, and the
    last one is the ridge regression on the embeddings. Normalisation and gelu in between start in their nearly linear range.
    What no linear path holds (the attention of that strategy) keeps its random start.
    """
    random = cast(dict, jax.jit(adapter.init)(jax.random.key(0), jnp.zeros((1, adapter.teacher)))["params"])
    encoder = _fitted(random["encoder"], embeddings, targets=None)
    codes = np.asarray(_apply(adapter, {"params": random | {"encoder": encoder}}, embeddings, "encode"))
    decoder = _fitted(random["decoder"], codes, targets=embeddings)
    return {"params": jax.tree.map(jnp.asarray, {"encoder": encoder, "decoder": decoder})}


def _fitted(layers: dict, values: np.ndarray, *, targets: np.ndarray | None) -> dict:
    """The dense layers of a stack set one after the other, each to what the ones before it make of `values`."""
    dense = sorted((name for name in layers if name.startswith("Dense_")), key=lambda name: int(name.removeprefix("Dense_")))
    names = ["direct"] if "direct" in layers else dense
    fitted = dict(layers)
    for name in names:
        width = layers[name]["bias"].shape[0]
        last = name == names[-1]
        kernel = _ridge(values, targets) if last and targets is not None else _projection(values, width)
        wanted = targets.mean(0) if last and targets is not None else np.zeros(width)
        bias = wanted - values.mean(0) @ kernel
        fitted[name] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
        values = values @ kernel + bias
        if not last:
            centred = values - values.mean(-1, keepdims=True)
            scaled = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-6)
            values = np.asarray(nn.gelu(jnp.asarray(_LINEAR_SCALE * scaled + _LINEAR_BIAS, jnp.float32)))
    return fitted


def _projection(values: np.ndarray, width: int) -> np.ndarray:
    """Orthonormal directions [inner, width]: the principal ones, or, where the layer widens, an isometry."""
    inner = values.shape[1]
    if width > inner:
        return np.linalg.qr(np.random.default_rng(0).normal(size=(width, inner)))[0].T
    centred = (values - values.mean(0)).astype(np.float64)
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :width]


def _ridge(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The matrix [inner, outer] that best maps centred values to centred targets, lightly regularised."""
    centred, wanted = (values - values.mean(0)).astype(np.float64), (targets - targets.mean(0)).astype(np.float64)
    gram = centred.T @ centred
    penalty = _RIDGE * np.trace(gram) / len(gram)
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), centred.T @ wanted)


class PrincipalComponents(NamedTuple):
    """Principal component analysis at a given width: the linear optimum, and so the yardstick of every adapter."""

    mean: np.ndarray
    components: np.ndarray

    def reconstruct(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings [text, teacher] after a projection on the components and back."""
        return self.mean + (embeddings - self.mean) @ self.components @ self.components.T


def principal_components(embeddings: np.ndarray, width: int) -> PrincipalComponents:
    """The `width` principal components of `embeddings` [text, teacher]."""
    return PrincipalComponents(embeddings.mean(0), _projection(embeddings, width))
