"""Agents that can talk to strangers: meta-learning against a dynamic population of past selves.

python -m experiments.populations            # a minute on a laptop CPU
python -m experiments.populations --preset full
python -m experiments.populations --preset few_objects

A speaker and a listener play a Lewis game. Each meta-step has three phases (Gupta et al. 2021, arXiv 2110.14241):
1. They learn from a few examples of a "human" code, and from games with each other, in turn (the S2P schedule).
2. Each of them is meta-trained by first-order MAML: it adapts to a past listener (or speaker) by one gradient step, and
   follows the gradient of the adapted agent in a new game, averaged over partners.
3. They join the queue of past selves, and the oldest pair leaves it.

The `dynamic` population has partners from the whole queue, the `latest` from its newest entry only. All else is the
same: updates, games, and the initial agents of each seed. All arms and seeds are one compiled program.

The report has the accuracy with past selves, with the agents of other seeds, and with humans, on the objects of the
training and on unseen ones.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import launch, parts
from metarl import checks
from metarl.checks import COUNT, NOT_NEGATIVE, RATE, SEVERAL, WIDTH, Bound
from metarl.evaluation.statistics import over_runs
from metarl.meta import Meta
from metarl.populations.lewis import Game, Pair, Sizes, accuracy, game_loss, imitation_loss, lewis
from metarl.populations.past_selves import draw, push
from metarl.run.checkpoint import Log
from metarl.run.options import replace
from metarl.tree import copies
from metarl.types import Array, Key, Metrics, PyTree

ARMS = ("latest", "dynamic")


@dataclasses.dataclass(frozen=True)
class Language:
    """The game and the human examples."""

    attributes: Annotated[int, Bound(1, 8)] = 3
    """Attributes of an object."""
    values: Annotated[int, Bound(2, 64)] = 4
    """Values of each attribute."""
    length: Annotated[int, COUNT] = 3
    """Symbols of a message."""
    vocabulary: Annotated[int, Bound(2, 2**12)] = 8
    """Different symbols."""
    unseen: Annotated[int, COUNT] = 16
    """Objects that are never trained on."""
    examples: Annotated[int, COUNT] = 200
    """Objects with their human messages, drawn with replacement from those of the training."""

    def __post_init__(self) -> None:
        checks.fields(self)
        Sizes(self.attributes, self.values, self.length, self.vocabulary).check()
        if self.unseen > self.values**self.attributes - 2:
            raise ValueError(
                f"unseen must leave 2 of the {self.values**self.attributes} objects for training, got {self.unseen}"
            )


@dataclasses.dataclass(frozen=True)
class Agents:
    """The agents and their seeds."""

    num_seeds: Annotated[int, Bound(3, COUNT.high)] = 10
    """Independent runs of both populations, side by side; strangers are compared over three or more."""
    width: Annotated[int, WIDTH] = 64
    """Of the two layers of speakers and listeners."""
    learning_rate: Annotated[float, RATE] = 3e-3
    """Adam's."""
    entropy_coef: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight of the speaker's entropy in games."""
    batch: Annotated[int, SEVERAL] = 32
    """Games, or examples, of each update."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The phases of a meta-step."""

    imitation_updates: Annotated[int, COUNT] = 5
    """Updates on human examples."""
    game_updates: Annotated[int, COUNT] = 20
    """Updates on games with each other, after them."""
    meta_updates: Annotated[int, COUNT] = 10
    """Updates of first-order MAML against past selves, after these."""
    past: Annotated[int, SEVERAL] = 8
    """Past selves that are kept."""
    partners: Annotated[int, COUNT] = 4
    """Of them, in each update, with a batch of games each."""
    adaptation_rate: Annotated[float, RATE] = 0.1
    """Of the gradient step by which an agent adapts to a partner."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """Speakers and listeners with a dynamic population of past selves, against the latest self only."""

    run: parts.Run = parts.Run(steps=100)
    language: Language = Language()
    agents: Agents = Agents()
    schedule: Schedule = Schedule()


PRESETS = {
    "quick": replace(Config(), steps=40, num_seeds=3, unseen=48),
    "full": Config(),
    "few_objects": replace(Config(), unseen=48),  # 16 are trained on, so unseen ones are not easy
}


class Talker(NamedTuple):
    """One pair of agents, and its past selves."""

    agents: Pair
    opt_state: PyTree
    past: Pair  # leaves [past, ...], the newest first
    reach: Array  # () int32, how many of them it meets
    examples: Array  # [examples, attributes] int32


def game_of(config: Config) -> Game:
    """The game and the agents' networks."""
    sizes = config.language
    return lewis(Sizes(sizes.attributes, sizes.values, sizes.length, sizes.vocabulary), config.agents.width)


def make(config: Config) -> Meta:
    """Both populations of all seeds as one run; leaves of its state are [arms, seeds, ...]."""
    game, options, schedule = game_of(config), config.agents, config.schedule
    unseen, count = config.language.unseen, options.num_seeds
    optimizer, trained = optax.adam(options.learning_rate), game.objects[unseen:]

    def newborn(key: Key, reach: Array) -> Talker:
        agent_key, example_key = jax.random.split(key)
        params = game.init(agent_key)
        examples = jax.random.choice(example_key, trained, (config.language.examples,))
        return Talker(params, optimizer.init(params), copies(params, schedule.past), reach, examples)

    def games(params: Pair, key: Key) -> tuple[Array, Array]:
        object_key, key = jax.random.split(key)
        objects = jax.random.choice(object_key, trained, (options.batch,))
        speak, listen = game.speaker(params.speaker), game.listener(params.listener)
        return game_loss(speak, listen, key, objects, options.entropy_coef)

    def imitate(talker: Talker, key: Key) -> tuple[Pair, Array]:
        objects = jax.random.choice(key, talker.examples, (options.batch,))
        messages = jnp.argmax(jax.vmap(game.human_speaker)(objects), -1)

        def loss(params: Pair) -> Array:
            return imitation_loss(game.speaker(params.speaker), game.listener(params.listener), objects, messages)

        value, gradient = jax.value_and_grad(loss)(talker.agents)
        return gradient, value

    def self_play(talker: Talker, key: Key) -> tuple[Pair, Array]:
        gradient, picked = jax.grad(games, has_aux=True)(talker.agents, key)
        return gradient, picked

    def meta_gradient(talker: Talker, key: Key) -> tuple[Pair, Array]:
        partner_key, key = jax.random.split(key)
        partners = draw(partner_key, talker.past, talker.reach, schedule.partners)

        def against(partner: Pair, key: Key) -> tuple[Pair, Array]:
            """The gradient of a speaker that adapts to the partner's listener, and of a listener to its speaker."""

            def one(name: str, key: Key) -> tuple[PyTree, Array]:
                def loss(own: PyTree, key: Key) -> tuple[Array, Array]:
                    return games(partner._replace(**{name: own}), key)

                adapt_key, test_key = jax.random.split(key)
                own = getattr(talker.agents, name)
                gradient, _ = jax.grad(loss, has_aux=True)(own, adapt_key)
                adapted = jax.tree.map(lambda x, g: x - schedule.adaptation_rate * g, own, gradient)
                return jax.grad(loss, has_aux=True)(adapted, test_key)  # first-order: of the adapted agent

            keys = jax.random.split(key)
            (speaker, said), (listener, understood) = one("speaker", keys[0]), one("listener", keys[1])
            return Pair(speaker, listener), 0.5 * (said + understood)

        found = jax.vmap(against)(partners, jax.random.split(key, schedule.partners))
        return jax.tree.map(lambda x: x.mean(0), found)

    def phase(gradient_of: Any, updates: int, talker: Talker, key: Key) -> tuple[Talker, Array]:
        def update(talker: Talker, key: Key) -> tuple[Talker, Array]:
            gradient, metric = gradient_of(talker, key)
            change, opt_state = optimizer.update(gradient, talker.opt_state)
            return talker._replace(agents=optax.apply_updates(talker.agents, change), opt_state=opt_state), metric

        talker, metrics = jax.lax.scan(update, talker, jax.random.split(key, updates))
        return talker, metrics.mean()

    def learn(talker: Talker, key: Key) -> tuple[Talker, Metrics]:
        keys = jax.random.split(key, 3)
        talker, loss = phase(imitate, schedule.imitation_updates, talker, keys[0])
        talker, picked = phase(self_play, schedule.game_updates, talker, keys[1])
        talker, adapted = phase(meta_gradient, schedule.meta_updates, talker, keys[2])
        talker = talker._replace(past=push(talker.past, talker.agents))
        return talker, {"imitation_loss": loss, "picked_by_self": picked, "picked_by_past_selves": adapted}

    def init(key: Key) -> Talker:
        reach = jnp.array([1, schedule.past])  # of `ARMS`
        return jax.vmap(jax.vmap(newborn, (0, None)), (None, 0))(jax.random.split(key, count), reach)

    def step(talkers: Talker, key: Key) -> tuple[Talker, Metrics]:
        keys = jax.random.split(key, count)  # arms have the same keys
        talkers, metrics = jax.vmap(jax.vmap(learn), (0, None))(talkers, keys)
        updates = schedule.imitation_updates + schedule.game_updates + schedule.meta_updates
        return talkers, {**metrics, "agent_updates": jnp.int32(updates * len(ARMS) * count)}

    return Meta(init, step)


def accuracies(game: Game, talkers: Talker, objects: Array) -> dict[str, Array]:
    """Accuracy [seeds] on `objects` of the talkers [seeds, ...] of one arm, with each kind of partner.

    Each is the mean of the agents as speakers and as listeners.
    """

    def between(speaker: PyTree, listener: PyTree) -> Array:
        return accuracy(game.speaker(speaker), game.listener(listener), objects)

    def both(one: Pair, other: Pair) -> Array:
        return 0.5 * (between(one.speaker, other.listener) + between(other.speaker, one.listener))

    def human(one: Pair) -> Array:
        speaks = accuracy(game.speaker(one.speaker), game.human_listener, objects)
        return 0.5 * (speaks + accuracy(game.human_speaker, game.listener(one.listener), objects))

    agents, count = talkers.agents, len(talkers.reach)
    crossed = jax.vmap(jax.vmap(both, (None, 0)), (0, None))(agents, agents)
    past = jax.vmap(jax.vmap(both, (None, 0)))(agents, talkers.past).mean(1)
    others = (crossed.sum(1) - jnp.diagonal(crossed)) / (count - 1)
    return {"past selves": past, "other seeds": others, "humans": jax.vmap(human)(agents)}


def report(config: Config, state: Talker, log: Log, directory: Path) -> launch.Report:
    """Accuracy of both populations with all partners, and the difference within seeds: Student's 95 % intervals.

    Those with other seeds are of pairs of seeds: see `of_pairs`.
    """
    game, unseen = game_of(config), config.language.unseen
    places = {"trained objects": game.objects[unseen:], "unseen objects": game.objects[:unseen]}
    rows: dict[str, dict[str, float]] = {}
    for place, objects in places.items():
        measured = jax.tree.map(np.asarray, jax.jit(jax.vmap(partial(accuracies, game), (0, None)))(state, objects))
        for partner, (latest, dynamic) in measured.items():
            found = {"latest": latest, "dynamic": dynamic, "dynamic minus latest": dynamic - latest}
            if partner == "other seeds":
                found = {name: of_pairs(x) for name, x in found.items()}
            rows |= {f"{name}, {partner}, {place}": over_runs(x)._asdict() for name, x in found.items()}
    return rows


def of_pairs(means: np.ndarray) -> np.ndarray:
    """Scores [n] for an interval over n >= 3 seeds, where `means` [n] are each seed's means over its n - 1 pairs.

    Two seeds share the score of their pair, so their means are not independent. These are the pseudo-values of the
    jackknife: their mean is that of `means`, and they deviate from it 2 (n - 1) / (n - 2) times as much.
    """
    mean, count = means.mean(), len(means)
    return mean + 2.0 * (count - 1) / (count - 2) * (means - mean)


EXPERIMENT = launch.Experiment(
    "populations",
    make,
    curves=("picked_by_self", "picked_by_past_selves", "imitation_loss"),
    report=report,
    score="share of objects picked",
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()
