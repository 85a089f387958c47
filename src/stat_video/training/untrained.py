"""Name the weights that no gradient reaches, before a run is trained without them."""

from collections.abc import Callable

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from ..errors import InputError

NAMED = 4  # weights in the line


class Untrained(Callback):
    """Asks at the first step which weights have no gradient: `say`s their names, or raises InputError on several ranks.

    DDP waits in each backward pass for the gradient of every weight, and ends in the second step if one never comes.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.asked = say, False

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Look at each weight that is to be trained, once."""
        if self.asked:
            return
        self.asked = True
        left = [n.removeprefix("model.") for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
        if not left:
            return
        names = ", ".join(left[:NAMED]) + (f" and {len(left) - NAMED} more" if len(left) > NAMED else "")
        if trainer.world_size > 1:
            raise InputError(
                f"no gradient reaches {names}: on several devices every weight has to have one; requires_grad=False "
                f"leaves a weight out of the training, trainer.devices=1 trains without it"
            )
        self.say(f"No gradient reaches {names}: the first step leaves them as they were drawn")
