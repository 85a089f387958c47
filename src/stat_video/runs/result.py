"""What a finished run or test has to say: `result.json` and `evaluation_<views>.json` as one typed record."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..data.sampling import Views
from ..errors import InputError
from ..files import write_json


class Metrics(dict["Key", float]):
    """Figures by their keys, or by the text of a key: `metrics["test/top1_5x1"]`."""

    def __missing__(self, key: "Key | str") -> float:
        if isinstance(key, str):
            return self[Key.parse(key)]
        raise KeyError(f"{key}; there are {', '.join(map(str, self))}")


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
        """Return the key that is written so: 'test/top1_5x1_far'; InputError if it is none."""
        if (found := re.fullmatch(r"(\w+)/(\w+?)_(\d+x\d+)(?:_(.+))?", text)) is None:
            raise InputError(f"{text}: must be STAGE/NAME_VIEWS or STAGE/NAME_VIEWS_GROUP, such as test/top1_5x1")
        return cls(found[1], found[2], Views.parse(found[3]), found[4] or "")


@dataclass(frozen=True)
class Result:
    """A finished run, or one test of its checkpoint, as its file says."""

    folder: Path
    content: Mapping[str, Any] = field(repr=False)  # all of the file: hardware, versions, absent videos, ...

    @classmethod
    def read(cls, file: str | Path) -> "Result":
        """Return what a `result.json` or `evaluation_<views>.json` says, or that of a run's folder.

        Raises InputError if it can't be read or is no such file.
        """
        file = Path(file)
        file = file / "result.json" if file.is_dir() else file
        try:
            found = cls(file.parent, json.loads(file.read_text(encoding="utf-8")))
            assert found.name is not None
            assert found.metrics is not None
            assert found.views is not None
        except OSError as error:
            raise InputError(f"{file}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: no result of a run ({error})") from None
        return found

    def write(self, file: Path) -> None:
        """Write the file, beside first and then renamed."""
        write_json(file, dict(self.content))

    @property
    def id(self) -> str:
        """The run's id, the last part of its folder's name."""
        return str(self.content.get("id") or self.folder.name.rpartition("-")[2])

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return str(self.content["name"])

    @property
    def scale(self) -> str:
        """'tiny' or 'paper'."""
        return str(self.content["scale"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.content["seed"])

    @cached_property
    def views(self) -> Views:
        """Protocol of the test."""
        return Views.parse(self.content.get("views") or self.content["config"]["views"])

    @cached_property
    def metrics(self) -> Metrics:
        """All figures, accuracies in percent; those that the file has no number for are left out."""
        return Metrics({Key.parse(name): float(v) for name, v in self.content["metrics"].items() if v is not None})

    @property
    def config(self) -> Mapping[str, Any]:
        """All keys of the run, in plain containers."""
        found: Mapping[str, Any] = self.content["config"]
        return found

    @property
    def checkpoint(self) -> Path:
        """Path of the weights."""
        return self.folder / str(self.content["checkpoint"])

    @property
    def top1(self) -> float:
        """Top-1 of the test, percent."""
        return self.metrics[Key("test", "top1", self.views)]

    @property
    def top5(self) -> float:
        """Top-5 of the test, percent."""
        return self.metrics[Key("test", "top5", self.views)]
