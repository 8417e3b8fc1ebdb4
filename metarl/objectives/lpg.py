"""Learned Policy Gradient (Oh et al. 2020, arXiv 2007.08794): a recurrent network computes the agent's targets.

The network reads a rollout backwards in time. At every step it returns how much to reinforce the action (`pi_hat`) and
what the agent should predict (`y_hat`). The meaning of the prediction is learned, too.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl import checks
from metarl.checks import NOT_NEGATIVE, OPEN, POSITIVE, SEVERAL, SHARE, WIDTH, Bound, checked
from metarl.formulas import formula
from metarl.objectives.hand_made import UNITS, ActorCritic, actor_critic_weights, at_coordinates, born_coordinates
from metarl.objectives.temporal import temporal_features
from metarl.rl.objective import Objective
from metarl.rl.rollout import Model, Rollout, unroll
from metarl.types import Array, MetaParams, Metrics, Params, Progress, PyTree

Start = Literal["scratch", "actor_critic"]
Learned = Literal["weights", "coordinates"]


class LPGInputs(NamedTuple):
    """Inputs of the meta-network for T steps of E environments. Leaves [T, E, ...]."""

    reward: Array  # [T, E]
    terminated: Array  # [T, E] bool: there is no next state, so y_next is ignored
    done: Array  # [T, E] bool: the episode ends here, so the state of the network is reset
    prob: Array  # [T, E] pi(a_t | s_t)
    y: Array  # [T, E, m] the agent's prediction at s_t
    y_next: Array  # [T, E, m] the agent's prediction at s_{t+1}
    context: Array  # [T, E, c] what is the same at every step: the discount, `temporal_features`; c = 0 without either


class LPGTargets(NamedTuple):
    """The agent's targets. Leaves [T, E, ...]."""

    pi_hat: Array  # [T, E], takes the place of the advantage
    log_y_hat: Array  # [T, E, m], log-probabilities of the target prediction


class GRU(NamedTuple):
    """Kernels of a gated recurrent unit of width H with inputs of size d: reset, update, candidate side by side."""

    input_kernel: Array  # [d, 3H]
    input_bias: Array  # [3H]
    recurrent_kernel: Array  # [H, 3H]
    candidate_bias: Array  # [H]


def gru_backwards_in_time(gru: GRU, inputs: Array, done: Array) -> Array:
    """States [T, E, H] of a GRU (Cho et al. 2014, arXiv 1406.1078) that reads `inputs` [T, E, d] from last to first.

    The state is zero before it consumes a step with `done` [T, E], so no step sees past its own episode's end.

    Nearly all arithmetic of a meta-step is here. Two choices were measured on CPU. The inputs are projected inside the
    loop, because reading their projections [T, E, 3H] from memory takes longer than computing them. Each gate has its
    own product, because the gradient of slices of one wide product pads them.
    """
    in_reset, in_update, in_candidate = jnp.split(gru.input_kernel, 3, axis=-1)
    bias_reset, bias_update, bias_candidate = jnp.split(gru.input_bias, 3)
    reset_kernel, update_kernel, candidate_kernel = jnp.split(gru.recurrent_kernel, 3, axis=-1)

    def step(state: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        inputs, done = x
        state = jnp.where(done[:, None], 0.0, state)
        reset = jax.nn.sigmoid(inputs @ in_reset + bias_reset + state @ reset_kernel)
        update = jax.nn.sigmoid(inputs @ in_update + bias_update + state @ update_kernel)
        recalled = reset * (state @ candidate_kernel + gru.candidate_bias)
        candidate = jnp.tanh(inputs @ in_candidate + bias_candidate + recalled)
        state = (1.0 - update) * candidate + update * state
        return state, state

    start = jnp.zeros((inputs.shape[1], gru.candidate_bias.shape[0]), inputs.dtype)
    return jax.lax.scan(step, start, (inputs, done), reverse=True)[1]


class LPGNetwork(nn.Module):
    """The meta-network of section 2 of the paper, with a GRU: about 204k parameters at width 256 and 8 bins.

    `gate_bias` is the initial bias of the update gate, which is the share of its state that the GRU keeps.
    """

    bins: int
    hidden: int
    gate_bias: float = 0.0

    @nn.compact
    def __call__(self, x: LPGInputs) -> LPGTargets:
        embed = nn.Sequential([nn.Dense(16, name="embed_hidden"), nn.relu, nn.Dense(1, name="embed")])
        y_next = jnp.where(x.terminated[..., None], 0.0, embed(x.y_next))
        flags = jnp.stack([x.reward, x.terminated.astype(x.reward.dtype), x.prob], axis=-1)
        inputs = jnp.concatenate([flags, embed(x.y), y_next, x.context], axis=-1)
        n, kernel = self.hidden, nn.initializers.lecun_normal()

        def input_bias(key: Array, shape: tuple[int]) -> Array:  # of the reset gate, the update gate, the candidate
            return jnp.zeros(shape).at[n : 2 * n].set(self.gate_bias)

        gru = GRU(
            input_kernel=self.param("input_kernel", kernel, (inputs.shape[-1], 3 * n)),
            input_bias=self.param("input_bias", input_bias, (3 * n,)),
            recurrent_kernel=self.param("recurrent_kernel", kernel, (n, 3 * n)),
            candidate_bias=self.param("candidate_bias", nn.initializers.zeros, (n,)),
        )
        hidden = nn.relu(gru_backwards_in_time(gru, inputs, x.done))
        y_hat = nn.Dense(self.bins, name="y_hat")(hidden)
        return LPGTargets(nn.Dense(1, name="pi_hat")(hidden)[..., 0], jax.nn.log_softmax(y_hat))


def lpg_context(discount: Array | float | None, progress: Progress | None) -> Array:
    """`LPGInputs.context` [c] of a rule that sees `discount` and `progress`, or only one of them, or none."""
    return jnp.concatenate(
        [
            jnp.zeros(0) if discount is None else jnp.asarray(discount, jnp.float32)[None],
            jnp.zeros(0) if progress is None else temporal_features(progress),
        ]
    )


def lpg_inputs(
    params: Params, model: Model, rollout: Rollout, discount: Array | float | None, progress: Progress | None
) -> LPGInputs:
    """What the rule sees of a rollout; `discount` and `progress` are those of `lpg_context`."""
    outputs, next_outputs = unroll(model, params, rollout)
    y, y_next = jax.nn.softmax(outputs["y"]), jax.nn.softmax(next_outputs["y"])
    prob = jnp.exp(model.policy.distribution(outputs["policy"]).log_prob(rollout.action))
    seen = lpg_context(discount, progress)
    context = jnp.broadcast_to(seen, (*prob.shape, seen.size))
    return LPGInputs(rollout.reward, rollout.terminated, rollout.done, prob, y, y_next, context)


def embedding(meta_params: MetaParams, y: Array) -> Array:
    """LPG's phi [...] of predictions [..., bins]."""
    hidden, output = meta_params["embed_hidden"], meta_params["embed"]
    return (jax.nn.relu(y @ hidden["kernel"] + hidden["bias"]) @ output["kernel"] + output["bias"])[..., 0]


# what a formula of pi_hat may be of, see `summaries`
PI_HAT_VARIABLES = ("r", "d", "p", "v", "w", "g", "c", "n")


def summaries(meta_params: MetaParams, x: LPGInputs, decay: float = 0.9) -> dict[str, Array]:
    """Numbers [T, E] that sum up what the network sees of each step, and of the rest of the episode in the rollout.

    The reward `r`; `d`, 1 where there is no next state, else 0; the probability `p` of the action; phi of the
    predictions at the state and the next one, `v` and `w` (0 if there is none); and, where the rule sees it, the age
    `n`. Of the steps that follow, whose weight falls by `decay` per step: `g`, the sum of their rewards, and `c`, that
    of their changes w - v.
    """
    v = embedding(meta_params, x.y)
    w = jnp.where(x.terminated, 0.0, embedding(meta_params, x.y_next))

    def back(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        values, done = step  # [2, E], [E]
        later = decay * jnp.where(done, 0.0, later)
        return values + later, later

    both = jnp.stack([x.reward, w - v], axis=1)
    g, c = jax.lax.scan(back, jnp.zeros_like(both[0]), (both, x.done), reverse=True)[1].swapaxes(0, 1)
    found = {"r": x.reward, "d": x.terminated.astype(v.dtype), "p": x.prob, "v": v, "w": w, "g": g, "c": c}
    return found if x.context.shape[-1] < 2 else {**found, "n": x.context[..., -2]}


def _newborn(network: LPGNetwork, key: Array, temporal: bool, sees_discount: bool) -> MetaParams:
    one, row = jnp.zeros((1, 1)), jnp.zeros((1, 1, network.bins))
    context = jnp.zeros((1, 1, sees_discount + 2 * temporal))
    return network.init(key, LPGInputs(one, one > 0, one > 0, one, row, row, context))["params"]


def coordinate_weights(coordinates: MetaParams, start: ActorCritic, bins: int, largest_value: float) -> MetaParams:
    """The network's weights where only coordinates are learned: those of `lpg` with the same options."""
    temporal = coordinates["limit"].size > 1
    born = jax.eval_shape(lambda key: _newborn(LPGNetwork(bins, UNITS), key, temporal, True), jax.random.key(0))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), born)
    return actor_critic_weights(nothing, at_coordinates(coordinates, start), largest_value)


# the coefficients of the regularisers of `lpg`; for evolution, whose meta-objective is fitness alone, all are 0
UNREGULARISED = {"policy_entropy_coef": 0.0, "y_entropy_coef": 0.0, "pi_hat_coef": 0.0, "y_hat_coef": 0.0}


@checked
def lpg(
    bins: Annotated[int, SEVERAL] = 8,
    hidden: Annotated[int, WIDTH] = 256,
    temporal: bool = False,
    discount: Annotated[Array | float, SHARE] | None = None,
    gate_bias: Annotated[float, NOT_NEGATIVE] = 0.0,
    start: Start = "scratch",
    gae_lambda: Annotated[Array | float, SHARE] = 0.95,
    largest_value: Annotated[float, POSITIVE] = 4.0,
    caution: Annotated[Array | float, NOT_NEGATIVE] = 0.0,
    learned: Learned = "weights",
    y_coef: Annotated[Array | float, NOT_NEGATIVE] = 0.5,
    policy_entropy_coef: Annotated[Array | float, NOT_NEGATIVE] = 5e-2,
    y_entropy_coef: Annotated[Array | float, NOT_NEGATIVE] = 1e-3,
    pi_hat_coef: Annotated[Array | float, NOT_NEGATIVE] = 5e-3,
    y_hat_coef: Annotated[Array | float, NOT_NEGATIVE] = 1e-3,
    pi_hat: str | None = None,
) -> Objective:
    """The agent minimises `-mean(pi_hat log pi(a|s)) + y_coef mean KL(y(s) || y_hat)` (eq. 2 and 3).

    The meta-objective is regularised (section 4.3) by `-policy_entropy_coef H(pi) - y_entropy_coef H(y)
    + pi_hat_coef mean(pi_hat^2) + y_hat_coef mean(|y_hat|^2)`. A coefficient of 0 leaves its term out; evolution needs
    none of them. `bins` is the size m of the prediction.
    With `temporal`, the rule also sees `temporal_features`: the agent's age and its lifetime's horizon. With a
    `discount`, it sees that as well (section 2), which should be that of the meta-objective.
    `gate_bias` is where the bias of the GRU's update gate begins. At 0, a reward's influence on earlier steps halves
    with every step; at 2, the rule remembers a whole rollout at birth. That helps meta-gradients, and hurts evolution.
    The rule that meta-training starts from is a network with random weights ("scratch"), or an actor-critic with this
    `gae_lambda`, this `caution` and values up to `largest_value` (`hand_made.actor_critic_weights`), which has to see
    the discount.
    What is learned are the network's weights, or only the coordinates of such an actor-critic
    (`hand_made.at_coordinates`): a few numbers, which evolution can tell apart. Its network has no other units.
    With a `pi_hat`, that formula (`metarl.formulas.formula`) of `summaries` takes the place of the network's, as in a
    distilled rule. The targets of the prediction stay the network's.
    The entropies are those of the agent before each update, so those before the first update of a truncation have no
    meta-gradient.

    Raises ValueError if `bins` is below 2 or `hidden` below 1, if `pi_hat` is no such formula, and to start from an
    actor-critic if `hidden` is below 5 or there is no `discount`; to learn coordinates, unless `hidden` is 5, the start
    an actor-critic, `discount` and `gae_lambda` are above 0 and below 1, and there is no `gate_bias` and no `pi_hat`.
    """
    begins = None
    if start == "actor_critic":
        checks.within(int, Bound(UNITS, WIDTH.high), **{"hidden, to start from an actor-critic,": hidden})
        if discount is None:
            raise ValueError("start actor_critic needs a discount, got None")
        begins = ActorCritic(discount, gae_lambda, caution)
    if learned == "coordinates":
        checks.one_of(("actor_critic",), **{"start, to learn coordinates,": start})
        checks.one_of((UNITS,), **{"hidden, to learn coordinates,": hidden})
        checks.within(float, OPEN, discount=discount, gae_lambda=gae_lambda)
        for name, value, default in (("gate_bias", gate_bias, 0.0), ("pi_hat", pi_hat, None)):
            checks.one_of((default,), **{f"{name}, to learn coordinates,": value})
    network = LPGNetwork(bins, hidden, gate_bias)
    variables = PI_HAT_VARIABLES if temporal else PI_HAT_VARIABLES[:-1]
    distilled = None if pi_hat is None else formula(pi_hat, variables)

    def init(key: Array) -> MetaParams:
        if learned == "coordinates":
            return born_coordinates(temporal)
        born = _newborn(network, key, temporal, discount is not None)
        return born if begins is None else actor_critic_weights(born, begins, largest_value)

    def weights(meta_params: MetaParams) -> MetaParams:
        if learned == "weights" or begins is None:
            return meta_params
        return coordinate_weights(meta_params, begins, bins, largest_value)

    def targets(
        meta_params: MetaParams, memory: PyTree, params: Params, model: Model, rollout: Rollout, progress: Progress
    ) -> tuple[LPGTargets, Array, PyTree]:
        outputs, _ = unroll(model, params, rollout)
        policy = model.policy.distribution(outputs["policy"])
        inputs = lpg_inputs(params, model, rollout, discount, progress if temporal else None)
        rule = weights(meta_params)
        result = cast(LPGTargets, network.apply({"params": rule}, inputs))
        if distilled is not None:
            result = result._replace(pi_hat=distilled(**summaries(rule, inputs)))
        regularisers = [
            (policy_entropy_coef, lambda: -policy.entropy().mean()),
            (y_entropy_coef, lambda: (inputs.y * jax.nn.log_softmax(outputs["y"])).sum(-1).mean()),
            (pi_hat_coef, lambda: jnp.square(result.pi_hat).mean()),
            (y_hat_coef, lambda: jnp.square(jnp.exp(result.log_y_hat)).sum(-1).mean()),
        ]
        # the term of a coefficient that is the number 0 is not computed
        terms = [coef * value() for coef, value in regularisers if not (isinstance(coef, int | float) and coef == 0)]
        return result, sum(terms, jnp.zeros(())), memory

    def loss(
        meta_params: MetaParams, params: Params, model: Model, rollout: Rollout, targets: LPGTargets, progress: Progress
    ) -> tuple[Array, Metrics]:
        outputs, _ = unroll(model, params, rollout)
        policy = model.policy.distribution(outputs["policy"])
        log_y = jax.nn.log_softmax(outputs["y"])
        policy_loss = -(targets.pi_hat * policy.log_prob(rollout.action)).mean()
        divergence = (jnp.exp(log_y) * (log_y - targets.log_y_hat)).sum(-1).mean()
        metrics = {
            "policy_entropy": policy.entropy().mean(),
            "y_entropy": -(jnp.exp(log_y) * log_y).sum(-1).mean(),
            "y_divergence": divergence,
            "pi_hat": targets.pi_hat.mean(),
        }
        return policy_loss + y_coef * divergence, metrics

    return Objective(init, {"y": bins}, targets, loss)
