"""What a finished run or test has to say: `result.json` and `evaluation_<views>.json` as one typed record."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..data.sampling import Views
from ..errors import InputError


class Key(NamedTuple):
    """The name of a figure: of which stage, which figure, by which protocol, of which group of classes."""

    stage: str  # 'val' or 'test'
    name: str  # 'top1', 'top5', 'loss'
    views: Views
    group: str = ""

    def __str__(self) -> str:
        return f"{self.stage}/{self.name}_{self.views}{self.group and '_' + self.group}"

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Return the key that is written so: 'test/top1_5x1_far'; ValueError if it is none."""
        if (found := re.fullmatch(r"(\w+)/(\w+?)_(\d+x\d+)(?:_(.+))?", text)) is None:
            raise ValueError(f"{text}: must be STAGE/NAME_VIEWS or STAGE/NAME_VIEWS_GROUP, such as test/top1_5x1")
        return cls(found[1], found[2], Views.parse(found[3]), found[4] or "")


@dataclass(frozen=True)
class Result:
    """A finished run, or one test of its checkpoint."""

    folder: Path
    name: str  # of the experiment
    scale: str
    seed: int
    views: Views  # of the test
    metrics: Mapping[Key, float]  # accuracies in percent
    checkpoint: Path
    config: Mapping[str, Any]  # all keys of the run, in plain containers
    content: Mapping[str, Any]  # all that the file says: hardware, versions, absent and unreadable videos, ...

    @classmethod
    def read(cls, file: Path) -> "Result":
        """Return what a `result.json` or `evaluation_<views>.json` says, or that of a run's folder.

        Raises InputError if it can't be read or is no such file.
        """
        file = file / "result.json" if file.is_dir() else file
        try:
            return cls.of(json.loads(file.read_text(encoding="utf-8")), file.parent)
        except OSError as error:
            raise InputError(f"{file}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: no result of a run ({error})") from None

    @classmethod
    def of(cls, content: Mapping[str, Any], folder: Path) -> "Result":
        """Return the result that a file in a run's folder holds."""
        metrics = {Key.parse(name): float(value) for name, value in content["metrics"].items() if value is not None}
        return cls(
            folder=folder,
            name=content["name"],
            scale=content["scale"],
            seed=content["seed"],
            views=Views.parse(content.get("views") or content["config"]["views"]),
            metrics=metrics,
            checkpoint=folder / content["checkpoint"],
            config=content["config"],
            content=content,
        )

    @property
    def id(self) -> str:
        """The run's id, the last part of its folder's name."""
        return str(self.content.get("id") or self.folder.name.rpartition("-")[2])

    @property
    def top1(self) -> float:
        """Top-1 of the test, percent."""
        return self.metrics[Key("test", "top1", self.views)]

    @property
    def top5(self) -> float:
        """Top-5 of the test, percent."""
        return self.metrics[Key("test", "top5", self.views)]
