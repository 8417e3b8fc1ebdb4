"""Fine-tuning of sequence policies: `Source -> Credit -> Loss -> Controller -> GradientUpdate`, each a small file.

`sources` say which problems and answers a step learns from, `credit` how good each token was, `losses` (made of
`terms`) what is minimised, `controllers` how imitation and reward are weighed, `updates` how gradients become a step,
and `utilities` what a controller with a meta-parameter climbs. `finetune` joins them to a `metarl.meta.InnerLoop`.

Methods that need more than one of these have a file of their own (`aepo`, `gflownet`, `preferences`, `constrained`,
`refinement`), as have choices among kinds of problems (`tasks`, `categories`), rewards of single tokens (`rewards`),
and policies made of others (`combinations`, `cory`). What raters like is learned by `reward_models`
(`preference_mixtures` where they disagree, `stepwise` for single steps), and `judged` makes it the reward of a source.
"""

from metarl.finetune import (
    aepo,
    categories,
    combinations,
    constrained,
    controllers,
    cory,
    credit,
    gflownet,
    judged,
    losses,
    policies,
    preference_mixtures,
    preferences,
    progress,
    refinement,
    reward_models,
    rewards,
    sources,
    stepwise,
    tasks,
    terms,
    updates,
    utilities,
)
from metarl.finetune.batch import Batch
from metarl.finetune.controllers import Controller, Signals, Weights
from metarl.finetune.credit import Credit
from metarl.finetune.critic import TokenCritic
from metarl.finetune.learning import Data
from metarl.finetune.loop import Tuning, finetune
from metarl.finetune.losses import Context, Losses, TokenStatistics
from metarl.finetune.policies import SequencePolicy
from metarl.finetune.sampling import Sampling, success_rate
from metarl.finetune.sources import Source
from metarl.finetune.turns import Prover
from metarl.finetune.updates import GradientUpdate
from metarl.finetune.utilities import Utility

__all__ = [
    "Batch",
    "Context",
    "Controller",
    "Credit",
    "Data",
    "GradientUpdate",
    "Losses",
    "Prover",
    "Sampling",
    "SequencePolicy",
    "Signals",
    "Source",
    "TokenCritic",
    "TokenStatistics",
    "Tuning",
    "Utility",
    "Weights",
    "aepo",
    "categories",
    "combinations",
    "constrained",
    "cory",
    "controllers",
    "credit",
    "finetune",
    "gflownet",
    "judged",
    "losses",
    "policies",
    "preference_mixtures",
    "preferences",
    "progress",
    "refinement",
    "reward_models",
    "rewards",
    "sources",
    "stepwise",
    "success_rate",
    "tasks",
    "terms",
    "updates",
    "utilities",
]
