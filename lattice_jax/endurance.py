"""How answers last: given from states that other questions left, and after part of the cube was cleared.

Contract: pure functions of a trained cube and held-out pairs, for the end of a run; they give plain figures, ready for JSON,
the same ones for a cube that was trained with a pool of states and for one that was not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lattice_jax.config import Config
from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.evaluation.similarity import cosine_similarity, measure
from lattice_jax.lattice import cube, pool
from lattice_jax.lattice.adapter import Codec
from lattice_jax.lattice.emergence import dynamics
from lattice_jax.lattice.emergence.observe import on_one_device, stepped
from lattice_jax.lattice.firing import firing
from lattice_jax.lattice.propagate import holds_something
from lattice_jax.lattice.step import State
from lattice_jax.stacking import Base, Offsets

Respond = Callable[[np.ndarray, State], tuple[np.ndarray, State]]
"""(questions [n, d], the states they find) -> (answers [n, d] in the teacher's space, the states they leave)."""
Recall = Callable[[np.ndarray, State], tuple[np.ndarray, State]]
"""The same with the answers that are read at once and after every step [steps + 1, n, d], the last of which is the answer."""


def make_respond(config: Config, codec: Codec, base: Base, parameters: dict, mesh: Mesh | None) -> Respond:
    """The cube's answers from any start, updated as evaluation does; `base` is what they are changes of."""
    sampled = config.lattice.update.evaluation == "sampled"

    @jax.jit
    def answer(parameters: dict, questions: jax.Array, added: Offsets, start: State):
        answered = cube.answer(
            parameters,
            codec.encode_questions(questions),
            key=jax.random.key(config.seed),
            config=config.lattice,
            sampled=sampled,
            mesh=mesh,
            start=start,
        )
        return added.answers(codec, answered.vectors), answered.propagation.state

    def respond(questions: np.ndarray, start: State) -> tuple[np.ndarray, State]:
        answers, left = answer(parameters, questions, base.offsets(codec, questions), start)
        return np.asarray(answers), left

    return respond


def make_recall(config: Config, codec: Codec, base: Base, parameters: dict) -> Recall:
    """As `make_respond`, on one device and step by step, so that one pass gives what every shorter one would."""
    lattice, cells = stepped(config.lattice), on_one_device(parameters, config.lattice)
    sampled = config.lattice.update.evaluation == "sampled"

    @jax.jit
    def answer(cells: dict, questions: jax.Array, added: Offsets, start: State):
        key, started = jax.random.key(config.seed), holds_something(start)
        fires = firing(lattice, len(questions), sampled=sampled, key=key, started=started)
        codes, left = dynamics.recall(cells, codec.encode_questions(questions), start, fires, config=lattice)
        return jax.vmap(lambda vectors: added.answers(codec, vectors))(codes), left

    def recall(questions: np.ndarray, start: State) -> tuple[np.ndarray, State]:
        answers, left = answer(cells, questions, base.offsets(codec, questions), start)
        return np.asarray(answers), left

    return recall


def measure_endurance(
    config: Config, codec: Codec, base: Base, parameters: dict, mesh: Mesh | None, held_out: Pairs
) -> dict[str, dict]:
    """`pool` and `recovery`: the figures of `answer_in_turn` and `recover`."""
    asked = Pairs(*(side[: config.pool.questions] for side in held_out))
    respond = make_respond(config, codec, base, parameters, mesh)
    recall = make_recall(config, codec, base, parameters)
    return {"pool": answer_in_turn(config, respond, asked), "recovery": recover(config, recall, asked.questions)}


def answer_in_turn(config: Config, respond: Respond, asked: Pairs) -> dict:
    """Every question is answered from the quiescent state, then from the state that another one left, and so on.

    A row of `rounds` for each: similarity and MRR of the answers among those asked, `agreement` (mean cosine with the answers
    from the quiescent state), and diversity of the states left, with its alarm.
    """
    count, rounds = len(asked.questions), []
    state, first = pool.create(config.lattice, count).state, None
    for before in range(config.pool.rounds):
        answers, state = respond(asked.questions, state)
        first = answers if first is None else first
        found, measures = pool.diversity(state), measure(answers, asked.answers, bootstrap_samples=100)
        rounds.append(
            {
                "questions_before": before,
                "similarity": measures.similarity.value,
                "mrr": measures.mrr.value,
                "agreement": float(np.mean(cosine_similarity(answers, first))),
                "distance": float(found.distance),
                "effective_rank": float(found.effective_rank),
                "collapsed": bool(pool.collapsed(found, config.pool)),
            }
        )
        state = jax.tree.map(lambda field: jnp.roll(field, 1, 3), state)  # each question goes on from its neighbour's state
    return {"questions": count, "trained_from_pool": config.pool.size > 0, "rounds": rounds}


def recover(config: Config, recall: Recall, questions: np.ndarray) -> dict:
    """A question is answered, a region of the cube is cleared, and the same question stays at the input.

    For each kind of damage, and for none, the mean cosine (-1..1) between what is then read after 0, 1, ... `lattice.steps`
    steps and the answer before the damage: 1 is full recovery. Of the undamaged cube it says how well the answer lasts.
    """
    questions = questions[: config.pool.recovery_questions]
    count, grid = len(questions), config.lattice.grid
    answers, state = recall(questions, pool.create(config.lattice, count).state)
    before = answers[-1]
    starts, cleared = {"undamaged": state}, {}
    for number, kind in enumerate(pool.KINDS):
        masks = pool.damage_masks(kind, grid, count, key=jax.random.fold_in(jax.random.key(config.seed), number))
        starts[kind], cleared[kind] = pool.damage(state, masks), float(jnp.mean(masks))
    # All in one batch: a pass reads every cell's weights, however many questions it is for.
    together = jax.tree.map(lambda *fields: jnp.concatenate(fields, 3), *starts.values())
    asked, expected = (np.tile(rows, (len(starts), 1)) for rows in (questions, before))
    recalled, _ = recall(asked, together)
    found = [cosine_similarity(read, expected).reshape(-1, count).mean(1) for read in recalled]
    curves = dict(zip(starts, np.transpose(found).tolist(), strict=True))
    return {"questions": count, "steps": list(range(len(found))), **curves, "cleared_share": cleared}
