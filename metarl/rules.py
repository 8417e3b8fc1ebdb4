"""Learned update rules as files: saved with the recipe of the whole learner, loaded ready to use.

rule = metarl.load_rule("lpg-coordinates-gridworld")  # one of `shipped()`, a file of `save_rule`, or a run
inner = rule.inner_loop(levels.env)  # agents of the kind that the rule was meta-trained with
agent, metrics = metarl.train_agent(inner, {}, levels.sample(level_key), key, num_updates=500)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import optax

import metarl.pretrained
from metarl import objectives, optimizers
from metarl.checks import NOT_NEGATIVE, POSITIVE, RATE, checked
from metarl.inner.initial import Initial
from metarl.inner.rl import Experience, ValueJudge, rl_inner_loop, value_judge
from metarl.meta import InnerLoop
from metarl.optimizers.learned import LearnedOptimizer, as_learned
from metarl.pretrained import load_params, reading, save_params, tuples
from metarl.pretrained.disco import load_disco
from metarl.rl import networks, neural_process
from metarl.rl.critic import Critic
from metarl.rl.networks import NetworkFactory
from metarl.rl.objective import Objective
from metarl.types import Array, Environment, MetaParams

RULE_FILE = "rule.safetensors"  # what a run leaves in its directory

# The parts of a learner, JSON-able: {"objective": {"name": "lpg", "bins": 8}, "optimizer": {"name": "adam",
# "learning_rate": 1e-3}, "network": {"name": "tabular"}, "experience": {"num_envs": 16, "rollout_length": 20}}
Part = Mapping[str, Any]
Recipe = Mapping[str, Part]


@checked
def _adam(
    learning_rate: Annotated[Array | float, RATE],
    max_norm: Annotated[Array | float, POSITIVE] | None = None,
    eps: Annotated[float, NOT_NEGATIVE] = 1e-8,
    max_update: Annotated[float, POSITIVE] | None = None,
) -> optax.GradientTransformation:
    """`optimizers.adam` of gradients that are scaled down to `max_norm`."""
    return _clipped(optimizers.adam(learning_rate, eps=eps, max_update=max_update), max_norm)


def _sgd(learning_rate: Array | float, max_norm: Array | float | None = None) -> optax.GradientTransformation:
    return _clipped(optax.sgd(learning_rate), max_norm)


def _clipped(optimizer: optax.GradientTransformation, max_norm: Array | float | None) -> optax.GradientTransformation:
    return optimizer if max_norm is None else optax.chain(optimizers.clip_by_global_norm(max_norm), optimizer)


def _per_output(**specs: Part) -> optax.GradientTransformation:
    return optimizers.per_output(**{output: build_part("optimizer", spec) for output, spec in specs.items()})


_OF_OTHERS = ("fixed", "with_reward")  # made of another objective, which is no option of a recipe
# What a recipe may name. A new objective need not be listed: it is one of `metarl.objectives`.
COMPONENTS: dict[str, dict[str, Callable[..., Any]]] = {
    "objective": {name: getattr(objectives, name) for name in objectives.__all__ if name not in _OF_OTHERS},
    "optimizer": {
        "adafac": optimizers.adafac,
        "adam": _adam,
        "meta_sgd": optimizers.meta_sgd,
        "no_features": optimizers.no_features,
        "open_rl": optimizers.open_rl,
        "per_output": _per_output,
        "schedule": optimizers.schedule,
        "sgd": _sgd,
    },
    "network": {
        "action_model": networks.action_model,
        "gru": networks.gru,
        "lstm": networks.lstm,
        "minatar_conv": networks.minatar_conv,
        "mlp": networks.mlp,
        "neural_process": neural_process.neural_process,
        "tabular": lambda: networks.tabular,
        "transformer": networks.transformer,
    },
    "policy": {"by_action_space": lambda: networks.policy_head},
    "experience": {"rollouts": Experience},
    "initial": {name: partial(str, name) for name in ("learned", "random")},
}
_OF_AGENTS = ("objective", "optimizer", "network", "experience")  # what a recipe of agents cannot do without


class Learner(NamedTuple):
    """What learns during one lifetime. That of supervised tasks has an optimizer only."""

    network: NetworkFactory | None
    objective: Objective | None
    optimizer: optax.GradientTransformation | LearnedOptimizer
    experience: Experience | None
    initial: Initial = "random"  # where it begins; "learned" if that is learned, too

    def inner_loop(
        self,
        env: Environment,
        *,
        critic: Critic | None = None,
        num_eval_episodes: int = 16,
        max_episode_steps: int = 10_000,
    ) -> InnerLoop:
        """Agents of this kind in `env`: `rl_inner_loop` with these parts.

        Raises ValueError if this is no agent, and as `rl_inner_loop` does.
        """
        network, objective, experience = self._agent()
        return rl_inner_loop(
            env,
            network,
            objective,
            self.optimizer,
            experience,
            critic=critic,
            initial=self.initial,
            num_eval_episodes=num_eval_episodes,
            max_episode_steps=max_episode_steps,
        )

    def value_judge(self, env: Environment, critic: Critic) -> ValueJudge:
        """What the critic of agents of this kind says of them: `metarl.inner.rl.value_judge` with these parts.

        Raises ValueError if this is no agent.
        """
        network, objective, experience = self._agent()
        return value_judge(env, network, objective, critic, experience)

    def _agent(self) -> tuple[NetworkFactory, Objective, Experience]:
        if self.network is None or self.objective is None or self.experience is None:
            raise ValueError(
                "this learner has an optimizer only, no network, objective and experience of an agent: give the "
                "optimizer to rl_inner_loop or supervised_inner_loop"
            )
        return self.network, self.objective, self.experience


class Rule(NamedTuple):
    """A learned update rule, or where learners begin. Of `objective` and `optimizer`, what is not learned is None."""

    objective: Objective | None  # what agents minimise; nothing in it is left to learn
    optimizer: optax.GradientTransformationExtraArgs | None  # how parameters follow gradients, in any optax loop
    learner: Learner  # what it was meta-trained in, with its meta-parameters still to be given
    params: MetaParams
    card: dict[str, Any]  # where it comes from: recipe, configuration, seed, hardware, date, evaluation, content hash

    @property
    def trained(self) -> Learner:
        """The learner with everything learned in place: nothing in it is left to learn."""
        return self.learner._replace(
            objective=self.objective or self.learner.objective,
            optimizer=self.optimizer or self.learner.optimizer,
            initial=self.params.get("initial", "random"),
        )

    def inner_loop(self, env: Environment, **options: Any) -> InnerLoop:
        """Agents in `env` that learn by this rule; the meta-parameters are `{}`. Options as `Learner.inner_loop`.

        Raises ValueError for a rule that does not say what its agents are, or whose agents do not fit `env`.
        """
        return self.trained.inner_loop(env, **options)


def build_part(kind: str, spec: Part) -> Any:
    """The part that `spec` names, with its arguments; the name may be left out where there is only one.

    Raises ValueError for a kind, a name or an argument that is not known, with those that are.
    """
    if kind not in COMPONENTS:
        raise ValueError(f"a recipe has {', '.join(COMPONENTS)}, got {kind!r}")
    known, options = COMPONENTS[kind], tuples(spec)
    name = options.pop("name", next(iter(known)) if len(known) == 1 else None)
    if name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(known)}, got {name!r}")
    try:
        return known[name](**options)
    except TypeError as error:
        raise ValueError(f"{kind} {name} does not take these arguments: {error}") from error


def build(recipe: Recipe) -> Learner:
    """The learner that `recipe` describes: an agent, or an optimizer alone for supervised tasks.

    Raises ValueError as `build_part` does, and for a recipe that lacks a part.
    """
    for what, x in {"recipe": recipe, **(recipe if isinstance(recipe, Mapping) else {})}.items():
        if not isinstance(x, Mapping):
            raise ValueError(f"{what} must be a mapping, got {x!r}")
    needed = ("optimizer",) if recipe.keys() - {"initial"} == {"optimizer"} else _OF_AGENTS
    parts = {kind: build_part(kind, spec) for kind, spec in recipe.items()}
    if missing := [kind for kind in needed if kind not in parts]:
        raise ValueError(f"the recipe of an agent has {', '.join(_OF_AGENTS)}, this one has no {', '.join(missing)}")
    learner = Learner(parts.get("network"), parts.get("objective"), parts["optimizer"], parts.get("experience"))
    return learner._replace(initial=parts.get("initial", "random"))


def save_rule(path: str | Path, params: MetaParams, recipe: Recipe, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes the meta-parameters `{"objective": ..., "optimizer": ...}` of the learner that `recipe` describes.

    If the recipe says `{"initial": {"name": "learned"}}`, they have a part `"initial"`, too.

    `metadata` is any JSON-able mapping.
    Raises ValueError for a recipe that `build` does not know, and for parameters that are not those of its learner.
    """
    _check(build(recipe), params)
    save_params(path, params, {**(metadata or {}), "recipe": recipe})


def load_rule(name: str | Path) -> Rule:
    """The rule in a file of `save_rule` or in the directory of a finished run, or the one that is shipped as `name`.

    An `.npz` file is read as the published weights of DiscoRL (`metarl.pretrained.disco.load_disco`).

    Raises FileNotFoundError for neither, with the names that are most alike; ValueError for a file that is damaged, not
    of a rule, or of another version.
    """
    path = _find(name)
    params, card = load_disco(path) if path.suffix == ".npz" else load_params(path)
    where = f"{path} (metarl {card.get('metarl_version')}, here {metarl.__version__})"
    if "recipe" not in card:
        raise ValueError(
            f"{where} has no recipe: it is no rule of save_rule; metarl.rules.convert(path, recipe) adds one"
        )
    with reading(where, "; metarl.rules.convert(path, recipe) completes files of old versions"):
        learner = build(card["recipe"])
        _check(learner, params)
    learned = {kind: params.get(kind, ()) for kind in ("objective", "optimizer")}
    return Rule(
        objectives.fixed(learner.objective, learned["objective"])
        if learner.objective and learned["objective"]
        else None,
        learner.optimizer.transform(learned["optimizer"]) if isinstance(learner.optimizer, LearnedOptimizer) else None,
        learner,
        params,
        card,
    )


def convert(path: str | Path, recipe: Recipe) -> None:
    """Gives the file of a rule the parts of `recipe` in the place of those it has; its parameters stay as they are.

    For files of older versions, whose recipes did not say what agents are made of.
    Raises FileNotFoundError if there is no file, and ValueError as `save_rule` does.
    """
    params, card = load_params(path)
    save_rule(path, params, {**card.get("recipe", {}), **recipe}, card)


def shipped() -> list[str]:
    """Names of the rules that come with metarl; their cards lie beside them in `metarl/pretrained`."""
    return sorted(path.stem for path in _SHIPPED.glob("*.safetensors"))


_SHIPPED = Path(metarl.pretrained.__file__).parent


def _find(name: str | Path) -> Path:
    places = (Path(name), Path(name) / RULE_FILE, _SHIPPED / f"{name}.safetensors")
    if found := next((path for path in places if path.is_file()), None):
        return found
    if Path(name).is_dir():
        raise FileNotFoundError(f"no {RULE_FILE} in {str(name)!r}: no run has finished there")
    if Path(name).suffix == ".npz":
        raise FileNotFoundError(f"no file at {str(name)!r}; the published weights of DiscoRL do not come with metarl")
    alike = difflib.get_close_matches(str(name), shipped()) or shipped()
    raise FileNotFoundError(f"no rule at {str(name)!r}, and none is shipped as that; did you mean {', '.join(alike)}?")


def _check(learner: Learner, params: MetaParams) -> None:
    params = dict(params)
    has, wants = bool(jax.tree.leaves(params.pop("initial", ()))), learner.initial == "learned"
    if has != wants:
        said = ["no learned initialisation", "a learned initialisation"]
        raise ValueError(f"the parameters have {said[has]}, and their recipe has {said[wants]}")
    learned = {"optimizer": as_learned(learner.optimizer).init}
    if learner.objective is not None:
        learned["objective"] = learner.objective.init
    born = {kind: jax.eval_shape(init, jax.random.key(0)) for kind, init in learned.items()}
    wanted, found = (
        {kind: jax.tree.map(lambda x: x.shape, part) for kind, part in parts.items() if jax.tree.leaves(part)}
        for parts in (born, params)
    )
    if wanted != found:
        raise ValueError(f"the parameters are not those of its recipe, which has {wanted}")
