"""What an entry script is told: the keys, their types, and from them the objects of the library.

A field here, or in the dataclass of the part it belongs to (STATConfig, DataConfig, Recipe), is a key on the command
line; there is no second list of keys.
"""

from dataclasses import dataclass, field, fields, make_dataclass
from functools import partial
from typing import Any

from .data.config import DataConfig
from .data.sampling import Views
from .errors import InputError
from .model import STATConfig
from .training.optim import Recipe

# Keys of STATConfig that stand at the top level, where other parts read them too or a sweep wants one word.
TOP_LEVEL = ("T", "crop", "t_o", "l_ta", "num_classes")
SCALES = ("tiny", "paper")


def _model_keys() -> Any:
    """A dataclass of STATConfig's other fields in the types of YAML: lists for tuples, anything for the stem."""
    keys: list[tuple[str, Any, Any]] = []
    for f in fields(STATConfig):
        if f.name in TOP_LEVEL:
            continue
        default: Any = f.default
        if isinstance(default, tuple):
            keys.append((f.name, list[type(default[0])], field(default_factory=partial(list, default))))  # type: ignore[misc]
        else:
            keys.append((f.name, Any if f.name == "stem" else type(default), default))
    return make_dataclass("ModelKeys", keys)


ModelKeys: Any = _model_keys()


@dataclass
class Folders:
    """Where things are; the part of a config that is a matter of the machine. Set once in conf/local.yaml."""

    logs: str = "logs"
    built_in: str = "data"  # the built-in videos are generated below it
    kinetics400: str | None = None
    kinetics600: str | None = None
    kinetics700: str | None = None
    ssv2: str | None = None
    ucf101: str | None = None
    hmdb51: str | None = None


@dataclass
class Trainer:
    """Hardware and how it is used: Lightning's Trainer arguments, and what follows from them."""

    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # bf16-mixed on CUDA, 32-true elsewhere; or any of Lightning's
    batch_per_device: int = 16  # clips of one pass; passes are accumulated up to recipe.batch_size
    workers: int | None = None  # data loading processes of a device; default: the cores shared out, 16 at most
    clips_per_second: float | None = None  # training speed measured elsewhere, of all devices; only for plan=true
    compile: bool = False
    deterministic: bool = False
    save_minutes: float = 10  # between two checkpoints inside an epoch; each epoch's end has one
    save_steps: int | None = None  # also every so many optimizer steps
    keep_checkpoints: int = 2  # of a run that is not finished: the newest and those before

    def __post_init__(self) -> None:
        for key, least in (("save_minutes", 0), ("save_steps", 1), ("keep_checkpoints", 1)):
            value = getattr(self, key)
            if value is not None and not value >= least:
                raise InputError(f"trainer.{key}={value}: allowed is {least} or more")


@dataclass
class Logger:
    """W&B: offline, online (falls back to offline where there is no account or network) or off."""

    mode: str = "offline"
    project: str = "stat-video"
    entity: str | None = None
    artifact: bool = False  # also log the last checkpoint

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online", "off"):
            raise InputError(f"logger.mode={self.mode}: allowed are offline, online, off")


@dataclass
class Config:
    """Everything that `src/train.py` is told."""

    name: str = "default"  # of the experiment; the folder below logs/
    scale: str = "tiny"
    T: int = 16
    crop: int = 224
    t_o: int = 3
    l_ta: int = 1
    seed: int = 0
    views: str = "1x1"
    init: str | None = None  # checkpoint whose weights a new run starts from, or trained_on=DATA (runs/source.py)
    new_classifier: bool = False  # with init: for another class list
    fresh: bool = False  # set a run of the same definition aside and start over
    plan: bool = False  # say what would be run, and what it costs, and start nothing
    model: ModelKeys = field(default_factory=ModelKeys)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = field(default_factory=Recipe)
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    folders: Folders = field(default_factory=Folders)

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise InputError(f"scale={self.scale}: allowed are {', '.join(SCALES)}")
        if self.seed < 0:
            raise InputError(f"seed={self.seed}: allowed is 0 or more")
        Views.parse(self.views)
        self.stat_config(num_classes=1)

    def stat_config(self, num_classes: int) -> STATConfig:
        """The model; raises InputError where its choices don't fit together."""
        try:
            return STATConfig(
                T=self.T, crop=self.crop, t_o=self.t_o, l_ta=self.l_ta, num_classes=num_classes, **vars(self.model)
            )
        except ValueError as error:
            raise InputError(str(error)) from None


@dataclass
class EvaluateConfig:
    """Everything that `src/evaluate.py` is told; the rest it reads from the checkpoint."""

    ckpt: str | None = None
    views: str | None = None  # default: those that the run was tested with
    layout: str | None = None  # of the data set where it is not the run's, such as lists for transcoded copies
    trainer: Trainer = field(default_factory=Trainer)
    folders: Folders = field(default_factory=Folders)


@dataclass
class PredictConfig:
    """Everything that `src/predict.py` is told."""

    ckpt: str | None = None
    video: str | None = None
    picture: str | None = None  # default: beside the checkpoint, named after the video
