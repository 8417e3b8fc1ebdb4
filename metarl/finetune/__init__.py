"""Fine-tuning of sequence policies: `Batch` -> credit (advantages) -> terms (losses of tokens) -> weights -> optax."""

from metarl.finetune import controllers, credit, policies, terms
from metarl.finetune.loop import Settings, finetune, success_rate

__all__ = ["Settings", "controllers", "credit", "finetune", "policies", "success_rate", "terms"]
