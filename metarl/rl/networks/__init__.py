"""Agent networks. Every output (policy, value, prediction) has its own network, so each can learn at its own rate.

The exceptions are `action_model` and a `transformer` with a shared torso. Sizes of outputs are numbers, or shapes
(A, n) of outputs that have n numbers for each of A actions.
"""

from metarl.rl.networks.attention import transformer
from metarl.rl.networks.feedforward import minatar_conv, mlp, tabular
from metarl.rl.networks.lookahead import action_model, lstm_step
from metarl.rl.networks.memory import gru, lstm
from metarl.rl.networks.network import (
    Activity,
    Network,
    NetworkFactory,
    PolicyHead,
    Size,
    as_layers,
    cut_normal,
    policy_head,
    shape,
)
