"""What an entry script is told: the keys, their types and ranges, and from them the objects of the library.

A field here, or in the dataclass of the part that it belongs to (Clip, a model's Config, DataConfig, Augment), is a key
on the command line; there is no second list of keys.
"""

import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch.nn.parameter import is_lazy

from . import losses, metrics, models, paths, trainer_arguments
from .data import augmentations, layouts
from .data.augment import Augment
from .data.config import DataConfig
from .data.encoding import Encoding
from .data.sampling import Views
from .errors import InputError, any_value, check_ranges, one_of, path, ranged, refused
from .models.base import Clip, ModelConfig, VideoModel
from .models.parts.precision import keep_out_of_autocast
from .models.trained import depths, freeze, parameters_of
from .words import escaped

LONGEST_TAG = 64  # characters; W&B refuses more
SCALES = ("tiny", "paper")
ATTENTION = ("auto", "cudnn", "efficient", "flash", "math")  # auto: all but cuDNN's; another: it, else math
DECAY = ("weights", "outside_norms", "all")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


@dataclass
class OurFolders:
    """Where things are that every data set has in common."""

    logs: str = path("logs")
    built_in: str = path("data")  # the built-in videos are generated below it


def folders_of_data() -> list[str]:
    """Return the keys of folders that the files of conf/data/ name as `${folders.NAME}`, those of one's own too."""
    files = [file for place in (paths.CONF, *paths.own_conf()) for file in place.glob("data/*.yaml")]
    named = {name for file in files for name in re.findall(r"\$\{folders\.(\w+)\}", file.read_text(encoding="utf-8"))}
    return sorted(named - {f.name for f in fields(OurFolders)})


if TYPE_CHECKING:

    class Folders(OurFolders):
        """See below."""

else:
    Folders = make_dataclass(
        "Folders",
        [(name, str | None, path()) for name in folders_of_data()],
        bases=(OurFolders,),
        namespace={
            "__module__": __name__,
            "__doc__": "Where things are on this machine: set once in conf/local.yaml. A data set's file adds its key.",
        },
    )


def names_in(key: str, value: Any) -> list[str]:
    """Return a name or a list of names as a list, sorted, each once; InputError for anything else."""
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{key}={value}: must be a name or a list of names, such as [a,b]")
    return sorted(set(names))


def check_weights(key: str, value: Any) -> None:
    """Raise InputError unless a value is None, 'balanced', or a list of, or mapping to, numbers above 0."""
    numbers = list(value.values()) if isinstance(value, dict) else value
    if value is None or value == "balanced":
        return
    if (
        not isinstance(numbers, list | tuple)
        or not numbers
        or not all(isinstance(n, int | float) and not isinstance(n, bool) and 0 < n < math.inf for n in numbers)
    ):
        raise InputError(f"{key}={value}: must be balanced, a list of numbers above 0, or {{CLASS: NUMBER}}")


@dataclass
class Recipe:
    """How a model is trained: keys `recipe.*`.

    The defaults train plainly, and conf/recipe/plain.yaml repeats them; conf/model/ and conf/recipe/ say the rest.
    """

    epochs: int = ranged(200, 0)  # 0: as many as take `least_steps` or `max_steps` (runs/settled.py)
    least_steps: int = ranged(0, 0, neutral=0)  # optimizer steps, with epochs=0
    batch_size: int = ranged(512, 1)  # clips of one optimizer step, whatever the number of devices
    # Clips of a pass, over which batch norm takes its mean and variance: those of one GPU of the authors. null: as many
    # as fit, so that it depends on the hardware; of no effect in a model without batch norm.
    norm_clips: int | None = ranged(None, 1, neutral=None)
    repeats: int = ranged(1, 1)  # clips of a video in a batch (repeated augmentation)
    repeats_share_frames: bool = True  # decoded once, as in MViT's release; false: each draws its own
    optimizer: str = one_of("adamw", ("adamw", "sgd"))
    betas: list[float] = ranged([0.9, 0.999], 0, 1, below=True)  # of AdamW
    momentum: float = ranged(0.9, 0, 1, below=True)  # of SGD
    nesterov: bool = False  # SGD
    lr: float = ranged(1.6e-3, 0, above=True)  # for lr_batch clips, scaled linearly to batch_size
    lr_batch: int = ranged(512, 1)
    tiny_lr: float | None = ranged(None, 0, above=True)  # a model's own at scale=tiny
    lr_scale: dict[str, float] = ranged({}, 0)  # module or parameter: factor on lr, over the model's own
    model_lr_scale: bool = True  # whether the model's own factors count (VideoModel.lr_scale)
    # Factor on the learning rate from a layer to the one before it (VideoModel.layers); null: none.
    layer_decay: float | None = ranged(None, 0, 1, above=True, neutral=None)
    # Names of modules or parameters that are not trained, or backbone: all but the classifier. A list, or one name.
    freeze: Any = any_value([], neutral=[])
    schedule: str = one_of("cosine", ("cosine", "steps", "wsd"))
    milestones: list[float] = ranged([], 0)  # steps: epochs after which the learning rate is multiplied by gamma
    gamma: float = ranged(0.1, 0, 1, above=True)
    decay_share: float = ranged(0.25, 0, 1, above=True)  # wsd: of the steps, the last ones, in which the rate falls
    hold_until: float | None = ranged(None, 0, 100)  # wsd: validation top-1, below which the rate is held at its peak
    hold_epochs: int = ranged(0, 0)  # wsd: so many epochs longer at most (`epochs_after`)
    warmup_epochs: float = ranged(0, 0)
    warmup_lr: float = ranged(0, 0)  # where the warm-up starts; for lr_batch clips, as lr
    min_lr: float = ranged(0, 0)  # where the cosine or the fall ends
    weight_decay: float = ranged(0.05, 0)
    decay: str = one_of("weights", DECAY, neutral="weights")  # what decays (training/optim.py)
    loss: str | None = any_value(None, neutral=None)  # a file of losses/; null: cross_entropy, or of data.multi_label
    loss_keys: dict[str, float] = any_value({}, neutral={})  # its own keys: {positive_weight: 2.0}
    # Weight of each class in the loss: balanced (by the training list), a list, or {CLASS: 2.0}; null: all are 1.
    class_weights: Any = any_value(None, neutral=None)
    label_smoothing: float = ranged(0, 0, 1)
    mixup: float = ranged(0, 0)  # alpha; 0: off
    cutmix: float = ranged(0, 0)
    mix_probability: float = ranged(1.0, 0, 1)  # of mixing a batch at all
    mix_switch: float = ranged(0.5, 0, 1)  # of CutMix if both are on
    clip_grad_norm: float = ranged(1.0, 0)  # 0: off
    # Training batches over which batch norm's statistics are computed anew before a validation and at a run's end; 0:
    # off, they are running averages. Of no effect in a model without batch norm.
    precise_bn: int = ranged(0, 0, neutral=0)
    ema: float = ranged(0, 0, 1)  # decay of the averaged weights; 0: off
    max_steps: int | None = ranged(None, 1)  # stop after so many optimizer steps
    val_every: int = ranged(1, 1)  # epochs
    val_videos: int | None = ranged(None, 1)  # validate and test on so many videos, each class its share
    train_videos: int | None = ranged(None, 1, neutral=None)  # train on so many, likewise
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        check_ranges(self, "recipe.")
        if not self.epochs and not self.least_steps and self.max_steps is None:
            raise InputError("recipe.epochs=0: must be 1 or more, or 0 with recipe.least_steps or recipe.max_steps")
        if self.epochs and self.least_steps:
            raise InputError(f"recipe.least_steps={self.least_steps}: needs recipe.epochs=0, as many as take these")
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise InputError(f"recipe.warmup_epochs={self.warmup_epochs}: allowed is less than epochs={self.epochs}")
        if self.batch_size % self.repeats:
            raise InputError(
                f"recipe.batch_size={self.batch_size}: a multiple of recipe.repeats={self.repeats} is allowed"
            )
        # What says the same gets one id.
        names = names_in("recipe.freeze", self.freeze)
        self.freeze = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
        check_weights("recipe.class_weights", self.class_weights)
        if len(self.betas) != 2:
            raise InputError(f"recipe.betas={self.betas}: two numbers are allowed, such as [0.9,0.999]")
        if self.nesterov and not self.momentum:
            raise InputError("recipe.nesterov=True: needs recipe.momentum above 0")
        if self.precise_bn and self.ema:
            raise InputError(
                f"recipe.precise_bn={self.precise_bn}: must be 0 with recipe.ema={self.ema:g}, whose averaged weights "
                f"have other statistics"
            )
        if self.milestones != sorted(set(self.milestones)):
            raise InputError(f"recipe.milestones={self.milestones}: epochs in rising order are allowed")
        if self.schedule == "steps" and not self.milestones:
            raise InputError("recipe.schedule=steps: needs recipe.milestones, epochs in rising order")
        if self.hold_until is not None and (self.schedule != "wsd" or self.val_every != 1):
            raise InputError(
                f"recipe.hold_until={self.hold_until:g}: needs recipe.schedule=wsd and recipe.val_every=1; "
                f"recipe.hold_until=null goes without"
            )

    @property
    def scaled_lr(self) -> float:
        """Peak learning rate at batch_size clips."""
        return self.lr * self.batch_size / self.lr_batch

    def epochs_after(self, top1: Sequence[float]) -> int:
        """Return how many epochs a run has in all, by the top-1 of its validations so far, one an epoch, in percent.

        If the last validation before the rate would fall is below `hold_until`, the run is late: the rate is held at
        its peak for an epoch more, and the question is asked again after that, up to `hold_epochs` times. So a late
        run takes more steps, and any other is as it is without `hold_until`.
        """
        epochs = self.epochs
        if self.hold_until is None:
            return epochs
        while epochs < self.epochs + self.hold_epochs:
            asked = int(epochs - self.epochs * self.decay_share)  # whole epochs at the peak
            if not 0 < asked <= len(top1) or top1[asked - 1] >= self.hold_until:
                break
            epochs += 1
        return epochs

    @property
    def copies(self) -> int:
        """Numbers kept of each weight beside it and its gradient: AdamW's two, SGD's with momentum, the average's."""
        return (2 if self.optimizer == "adamw" else int(self.momentum > 0)) + int(self.ema > 0)


@dataclass
class TrainerKeys:
    """Hardware and how it is used: keys `trainer.*`, Lightning's Trainer arguments and what follows from them."""

    accelerator: str = one_of("auto", ("auto", "cpu", "cuda", "gpu"))
    devices: Any = "auto"
    num_nodes: int = ranged(1, 1)
    strategy: str = "auto"  # or ddp; auto: ddp if there are several processes
    precision: str = one_of("auto", PRECISIONS)  # auto: bf16-mixed on CUDA, 32-true elsewhere
    batch_per_device: Any = "auto"  # clips of one pass, accumulated up to recipe.batch_size; auto: by a GPU's memory
    gradient_checkpointing: bool = False  # compute each unit of the model again in the backward pass
    workers: int | None = ranged(None, 0)  # data loading processes of a device; default: the cores shared out
    clips_per_second: float | None = ranged(None, 0, above=True)  # measured, of all devices; only for plan=true
    compile: bool = False  # units of the model by torch.compile, which draws other numbers for dropout than PyTorch
    deterministic: bool = False
    attention: str = one_of("auto", ATTENTION)  # kernels of scaled_dot_product_attention on CUDA (hardware.py)
    window: str = one_of("auto", ("auto", "masked", "grouped"))  # how attention leaves out frames beyond a clip's ends
    depthwise: str = one_of("pytorch", ("pytorch", "triton"))  # 3-D depthwise convolutions; triton: on CUDA alone
    recompute: Any = one_of("auto", ("auto", True, False))  # norms and activations in the backward pass, to keep less
    save_minutes: float = ranged(10, 0)  # between two checkpoints inside an epoch; each epoch's end has one
    save_steps: int | None = ranged(None, 1)  # also every so many optimizer steps
    keep_checkpoints: int = ranged(2, 1)  # of a run that is not finished: the newest and those before
    timeout_minutes: float = ranged(
        10, 0, above=True
    )  # of silence, after which a run on several devices gives a rank up
    more: dict[str, Any] = any_value({})  # of Lightning's Trainer: {limit_train_batches: 2} (trainer_arguments.py)

    def __post_init__(self) -> None:
        check_ranges(self, "trainer.")
        if refused := trainer_arguments.check_strategy(self.strategy):
            raise InputError(f"trainer.strategy={self.strategy}: {refused}")
        self.more = {name: value for name, value in self.more.items() if value is not None}
        trainer_arguments.check(self.more, deterministic=self.deterministic)
        clips = self.batch_per_device
        if clips != "auto" and not (isinstance(clips, int) and not isinstance(clips, bool) and clips >= 1):
            raise InputError(f"trainer.batch_per_device={clips}: allowed is auto, or a number of 1 or more")


def project_of(asked: str | None) -> str:
    """Return the W&B project that a key asks for, else WANDB_PROJECT, else ours."""
    return asked or os.environ.get("WANDB_PROJECT") or "stat-video"


@dataclass
class LoggerKeys:
    """W&B: offline, online (falls back to offline without an account or network) or off.

    WANDB_MODE in the environment replaces offline and online; a key that is null is what its WANDB_ variable says.
    """

    mode: str = one_of("offline", ("offline", "online", "off"))
    project: str | None = None  # WANDB_PROJECT, else stat-video
    entity: str | None = None  # WANDB_ENTITY, else the account's own
    name: str | None = None  # WANDB_NAME, else that of the run's folder
    group: str | None = None  # WANDB_RUN_GROUP, else the experiment, `name`
    tags: Any = any_value([])  # a list or one, beside those of the run; none: WANDB_TAGS
    notes: str | None = None  # WANDB_NOTES
    artifact: bool = False  # also log the last checkpoint
    predictions: int = ranged(0, 0)  # rows of a table of the test's predictions, the surest errors first

    def __post_init__(self) -> None:
        check_ranges(self, "logger.")
        self.tags = names_in("logger.tags", self.tags)
        if long := [tag for tag in self.tags if len(tag) > LONGEST_TAG]:
            raise InputError(f"logger.tags: {long[0]:.20}... must be of {LONGEST_TAG} characters at most")


@dataclass
class Processes:
    """Settings of `hydra/launcher=processes`: keys `hydra.launcher.*`."""

    side_by_side: int = 1  # rows at a time, each on a share of the CUDA devices and cores
    hours: float | None = None  # time limit of a row; null: none


@dataclass
class Slurm:
    """Settings of `hydra/launcher=slurm`: what a row asks of SLURM; `trainer.num_nodes` is the number of its nodes."""

    side_by_side: int = 100  # jobs in the queue at a time
    cluster: str = "slurm"  # or local: the same without SLURM, as processes of this machine
    gpus_per_node: int = 8  # if trainer.devices=auto
    # A data worker each. Many nodes have 128 cores for 8 GPUs; a fast GPU takes more than 16: see src/cost.py, `cores`.
    cpus_per_gpu: int = 16
    hours: float = 24
    warn_seconds: int = 180  # SIGUSR1 so long before the time is over
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    mem_per_gpu: str | None = None  # '64GB'
    setup: list[str] = field(default_factory=list)  # shell lines before the job, such as 'module load cuda'
    more: dict[str, Any] = field(default_factory=dict)  # other sbatch options: {reservation: x}


@dataclass
class Config:
    """Everything that `src/train.py` is told."""

    name: str = "default"  # of the experiment; the folder below logs/
    scale: str = one_of("tiny", SCALES)
    seed: int = ranged(0, 0, 2**32 - 1)  # what NumPy's generator takes
    views: str = "1x1"  # clips x crops of the test
    # Whose weights a new run starts from: a checkpoint; trained_on=DATA (runs/source.py); shipped:NAME, which come with
    # the package; or auto, the shipped ones if they are of this model and clip (runs/settled.py).
    init: str | None = path()
    new_classifier: bool = False  # with init: for another class list
    # Of init=FILE of another project: the least share of the model's numbers that it has to hold (models/weights.py).
    init_share: float = ranged(0.95, 0, 1, neutral=0.95)
    fresh: bool = False  # set a run of the same definition aside and start over
    objective: str | None = any_value(None, neutral=None)  # of a search (hydra/sweeper): a figure of a run's result
    plan: bool = False  # say what would be run, and what it costs, and start nothing
    debug: str | None = any_value(None, neutral=None)  # of which file of conf/debug/: such a run is in no report
    clip: Clip = field(default_factory=Clip)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = field(default_factory=Recipe)
    trainer: TrainerKeys = field(default_factory=TrainerKeys)
    logger: LoggerKeys = field(default_factory=LoggerKeys)
    callbacks: dict[str, Any] = any_value({}, neutral={})  # {NAME: {_target_: CLASS, ...}}, of Lightning or your own
    loggers: dict[str, Any] = any_value({})  # beside W&B, likewise
    folders: Folders = field(default_factory=Folders)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.name or self.name.startswith(".") or "/" in self.name:
            raise InputError(f"name={self.name}: must be the name of a folder below folders.logs")
        Views.parse(self.views)
        epochs = self.recipe.epochs or sys.maxsize  # checked once they are known
        trainer_arguments.check_least(self.trainer.more, epochs=epochs, stops_early=bool(self.callbacks))
        short_side = self.short_side
        if self.clip.view_crop > short_side:
            key = "crop" if self.clip.test_crop is None else "clip.test_crop"
            raise InputError(
                f"{key}={self.clip.view_crop}: at most {short_side} is allowed, the short side of a test's frames "
                f"(clip.short_side, else data.short_side)"
            )
        resized = self.recipe.augment.crop_short_side
        if resized and resized[0] < self.clip.crop:
            raise InputError(
                f"recipe.augment.crop_short_side={list(resized)}: crop={self.clip.crop} or more is allowed, "
                f"a crop has to fit into the frame"
            )
        if self.recipe.loss == losses.usual(self.data.multi_label):
            self.recipe.loss = None  # one run, one id
        try:
            self.model.check(self.clip)
        except ValueError as error:
            raise InputError(str(error)) from None

    def check_parts(self) -> None:
        """Raise InputError if training can't have a loss or augmentation: only a config that is trained by needs them.

        So a checkpoint can be tested and applied where their files are not.
        """
        recipe = self.recipe
        try:
            several = self.data.multi_label
            losses.check(
                recipe.loss or losses.usual(several),
                recipe.loss_keys,
                recipe.label_smoothing,
                several,
                recipe.class_weights is not None,
            )
            if several and recipe.hold_until is not None:
                raise ValueError(
                    f"recipe.hold_until={recipe.hold_until:g}: is a top-1; with data.multi_label=true it must be null"
                )
            layouts.find(self.data.layout)
            metrics.check_own()
            for name in recipe.augment.more:
                augmentations.check(name)
        except ValueError as error:
            raise InputError(str(error)) from None
        self._check_names()

    def _check_names(self) -> None:
        """Raise InputError for a name in the recipe that the model has not, or if it leaves nothing to train."""
        recipe = self.recipe
        if not (recipe.freeze or recipe.lr_scale or recipe.layer_decay):
            return
        try:
            with torch.device("meta"):
                model = self.build(2)
        except Exception:  # of a model that can't be built so, or at all: training says what is wrong
            return
        with refused():
            freeze(model, recipe.freeze)
            for name, factor in recipe.lr_scale.items():
                parameters_of(model, name, f"recipe.lr_scale.{name}={factor}")
        if recipe.layer_decay is not None:
            with refused(f"recipe.layer_decay={recipe.layer_decay:g}: "):
                depths(model)

    def build(self, num_classes: int) -> VideoModel:
        """Return the model, with weights drawn anew; InputError if a library that it is built from is missing.

        Its classifier is kept out of autocast: logits of 8 to 16 in bf16 have steps of 0.06, and tie.
        """
        try:
            model = self.model.build(self.clip, num_classes)
        except ValueError as error:
            raise InputError(str(error)) from None
        except (ImportError, NotImplementedError) as error:
            raise InputError(f"model={self.model.name}: {error}") from None
        if wrong := _not_as_asked(model):
            raise InputError(f"model={self.model.name}: {wrong}")
        keep_out_of_autocast(model.get_submodule(model.classifier))
        return model

    @property
    def short_side(self) -> int:
        """Of the frame that views are cropped from, pixels."""
        return self.data.short_side if self.clip.short_side is None else self.clip.short_side

    @property
    def normalization(self) -> tuple[list[float], list[float], str]:
        """(mean, std, colours) of the pixels: 0 to 1, one number or three, the model's own or the data set's."""
        mean, std = self.data.mean, self.data.std
        if mean is None or std is None:
            raise InputError("data.mean=null data.std=null: are measured in a training; must be numbers here")
        return self.clip.mean or [mean], self.clip.std or [std], self.clip.channels


def _not_as_asked(model: Any) -> str | None:
    """Return in which way a model is not what `models.base` asks for; None if it is."""
    if not isinstance(model, VideoModel):
        return f"its Config.build returned a {type(model).__name__}; a VideoModel is asked for"
    if type(model).forward is VideoModel.forward:
        return f"{type(model).__name__} has no forward"
    if model.classifier not in dict(model.named_modules()):
        return f"it has no module {model.classifier}, its `classifier`: the class says which module makes the logits"
    if unsized := [name for name, parameter in model.named_parameters() if is_lazy(parameter)]:
        return f"{unsized[0]} has no size; a lazy layer gets it in a forward pass, too late: give it in build"
    return None


@dataclass
class EvaluateConfig:
    """Everything that `src/evaluate.py` is told; the rest it reads from the checkpoint."""

    ckpt: str | None = path()
    ensemble: list[str] | None = None  # folders or checkpoints of runs whose scores are averaged, in the place of ckpt
    views: str | None = None  # default: those that the run was tested with
    layout: str | None = None  # of the data set where it is not the run's, such as lists for transcoded copies
    max_absent: float | None = None  # these in the place of the run's data.max_absent, ...
    max_unreadable: float | None = None
    max_shared: float | None = None
    wait_seconds: float | None = None
    trainer: TrainerKeys = field(default_factory=TrainerKeys)
    folders: Folders = field(default_factory=Folders)

    def __post_init__(self) -> None:
        _refuse_more(self.trainer)


def _refuse_more(trainer: TrainerKeys) -> None:
    """Raise InputError for arguments of the Trainer that would do nothing where nothing is trained."""
    for name, value in trainer.more.items():
        raise InputError(f"trainer.more.{name}={value}: is of training alone")


@dataclass
class PredictKeys:
    """Which videos are looked at, and what is written of them."""

    video: str | None = path()  # a file, a folder of videos, or a list (.txt, .csv) with a path a line
    picture: str | None = path()  # of one video; default: beside the checkpoint, named after the video
    pictures: bool = False  # of many: draw each, into the folder `out`
    out: str | None = path()  # of many: <out>.csv and <out>.jsonl; default: beside the checkpoint, named after `video`
    # Also write what the classifier sees of each video: <out>_features.npz or .safetensors; true: npz.
    features: Any = one_of(False, (False, True, "npz", "safetensors"))


@dataclass
class PredictConfig(PredictKeys):
    """Everything that `src/predict.py` is told; the rest it reads from the checkpoint."""

    ckpt: str | None = path()

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class ExportKeys:
    """What is written of a model."""

    to: Any = "pt2"  # or onnx, or [pt2,onnx]
    out: str | None = path()  # <out>.pt2, <out>.onnx, <out>.json; default: 'model' beside the checkpoint

    def __post_init__(self) -> None:
        forms = list(self.to) if isinstance(self.to, Sequence) and not isinstance(self.to, str) else [self.to]
        if not forms or not all(form in ("pt2", "onnx") for form in forms):
            raise InputError(f"to={self.to}: allowed are pt2, onnx, [pt2,onnx]")
        self.to = forms


@dataclass
class ExportConfig(ExportKeys):
    """Everything that `src/export.py` is told; the rest it reads from the checkpoint."""

    ckpt: str | None = path()


@dataclass
class WeightsConfig(Config):
    """A file of weights of any form, and the model, clips and data that it is for: the keys of `src/train.py`."""

    weights: str | None = path()
    # Whose order the logits have: a known one (weights/class_orders/), a file with a name a line, or `data`, the data
    # set's own; null: that of a checkpoint of ours, or the known one of the data set's name.
    classes: str | None = path()

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_more(self.trainer)
        for key in ("init", "plan", "fresh", "new_classifier"):
            if self.weights is not None and (value := getattr(self, key)):
                raise InputError(f"{key}={value}: is of training; weights=FILE trains nothing")


@dataclass
class PredictWeights(PredictKeys, WeightsConfig):
    """Everything that `src/predict.py weights=FILE` is told."""


@dataclass
class ExportWeights(ExportKeys, WeightsConfig):
    """Everything that `src/export.py weights=FILE` is told."""

    def __post_init__(self) -> None:
        WeightsConfig.__post_init__(self)
        ExportKeys.__post_init__(self)


@dataclass
class PrepareConfig:
    """Everything that `src/prepare.py` is told."""

    do: str | None = None  # verify or transcode
    scale: str = one_of("tiny", SCALES)
    out: str | None = path()  # of transcode: a new folder
    workers: int | None = ranged(None, 1)  # default: the cores
    T: int = ranged(16, 1)  # frames of a clip, for the speed that transcode measures
    encoding: Encoding = field(default_factory=Encoding)
    data: DataConfig = field(default_factory=DataConfig)
    folders: Folders = field(default_factory=Folders)

    def __post_init__(self) -> None:
        if self.do not in ("verify", "transcode"):
            raise InputError(f"do={self.do}: allowed are verify, transcode")
        check_ranges(self)


@dataclass
class ReportConfig:
    """Everything that `src/report.py` is told."""

    scales: list[str] | None = None  # default: those that have runs
    out: str | None = path()  # default: <folders.logs>/report
    keep: str | None = path()  # a folder: also copy there what the tables are made of, without checkpoints
    gflops: str = one_of("printed", ("printed", "counted"))  # of other systems in Figure 1: the paper's, or ours
    folders: Folders = field(default_factory=Folders)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.scales is None:
            return
        if not self.scales or not set(self.scales) <= set(SCALES) or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scales={self.scales}: must be a list of {', '.join(SCALES)}, each once")


@dataclass
class DashboardConfig:
    """Everything that `src/dashboard.py` is told."""

    scales: list[str] = field(default_factory=lambda: list(SCALES))  # of each its own boards: they are never mixed
    project: str | None = None  # default: WANDB_PROJECT, else stat-video
    entity: str | None = None  # default: WANDB_ENTITY, else the account's own
    dry_run: bool = False  # write the definitions below <logs>/dashboard/ and ask no server
    folders: Folders = field(default_factory=Folders)

    def __post_init__(self) -> None:
        if not self.scales or not set(self.scales) <= set(SCALES):
            raise InputError(f"scales={self.scales}: a list of {', '.join(SCALES)} is allowed")


def from_plain(plain: dict[str, Any], schema: type = Config) -> Any:
    """Return a config in plain containers as an object of its schema, the model's part of it as the model's Config.

    Raises OmegaConf's errors for a key or type that does not belong there, ValueError for a value that is not allowed.
    """
    model = plain.get("model")
    of_model: Any = None
    if isinstance(model, dict) and "model" in {f.name for f in fields(schema)}:
        of_model = models.find(str(model.get("name")))
    return OmegaConf.to_object(OmegaConf.merge(_base(schema, of_model), escaped(plain)))


@cache  # to take dataclasses apart is a third of the time of a check
def _base(schema: type, model: Any) -> Any:
    """Return the defaults of a schema, with those of a model's Config."""
    base = OmegaConf.structured(schema)
    return base if model is None else OmegaConf.merge(base, {"model": OmegaConf.structured(model)})
