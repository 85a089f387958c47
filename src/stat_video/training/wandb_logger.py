"""W&B that never stops or slows a run: offline unless told otherwise, and offline again where online fails."""

import logging
import os
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)
ONLINE_TIMEOUT = 20  # seconds to wait for the server before going offline


def make_logger(
    mode: str, *, project: str, entity: str | None, folder: Path, id: str, group: str, tags: list[str], config: Any
) -> WandbLogger | None:
    """A logger in `mode` (offline, online, off); None where it is off or where not even offline works."""
    if mode == "off":
        return None
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    modes = ["online", "offline"] if mode == "online" else ["offline"]
    for attempt in modes:
        try:
            run = wandb.init(
                project=project,
                entity=entity,
                id=id,
                name=folder.name,
                group=group,
                job_type="train",
                tags=tags,
                config=config,
                dir=str(folder),
                mode=attempt,  # type: ignore[arg-type]
                resume="allow" if attempt == "online" else None,
                reinit="finish_previous",
                settings=wandb.Settings(
                    silent=True, console="off", init_timeout=ONLINE_TIMEOUT, login_timeout=ONLINE_TIMEOUT
                ),
            )
            return WandbLogger(experiment=run)
        except Exception as error:  # no key, no network, no disk: none of them may end a training run
            wandb.teardown()
            last = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning("W&B %s failed (%s); %s", attempt, last, "going on offline" if attempt == "online" else "off")
    return None
