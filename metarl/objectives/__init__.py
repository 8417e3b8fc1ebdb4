"""What agents minimise: each function here returns a `metarl.Objective`.

But `histogram` returns an auxiliary loss, which the actor-critics a2c, ppo, dpo and lpo take.
"""

from metarl.objectives.actor_critic import a2c, ppo
from metarl.objectives.auxiliary import histogram
from metarl.objectives.disco import disco
from metarl.objectives.fixed import fixed
from metarl.objectives.lpg import lpg
from metarl.objectives.lpo import dpo, lpo, mirror
from metarl.objectives.rewarded import with_reward

__all__ = ["a2c", "disco", "dpo", "fixed", "lpg", "lpo", "mirror", "ppo", "with_reward"]
