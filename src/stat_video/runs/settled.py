"""What of a config follows from the videos: settled before a run has an id; the same numbers by hand give that id."""

from dataclasses import asdict, replace
from math import ceil

from ..config import Config
from ..data import directions, pixels
from ..data.lists import find_root, read_listing
from ..progress import say
from ..trainer_arguments import steps_of_epoch
from ..weights import shipped
from .source import network_of

AUTO = "auto"  # init: shipped weights if there are some of this model and clip
MOST_VALIDATIONS = 40  # of a run whose epochs follow from its steps

_said: set[str] = set()


def settled(config: Config) -> Config:
    """Return a config in which nothing is left to the videos, and say each value that follows from them, once.

    `data.mean`, `data.std`, `data.hflip` of null, `recipe.epochs` of 0, `init=auto`, and `new_classifier` of shipped
    weights. Raises InputError if the data set is needed for that and not there.
    """
    data, recipe = config.data, config.recipe
    if data.root is not None:  # a checkpoint is tested from any folder
        data = replace(data, root=str(data.folder))
        config = replace(config, data=data)
    of_videos = None in (data.mean, data.std, data.hflip) or not recipe.epochs
    if not of_videos and config.init != AUTO and not shipped.is_shipped(config.init):
        return config
    root = find_root(data)
    listing, lines = read_listing(root, data), list[str]()
    if data.folds > 1:
        lines.append(f"data.fold={data.fold} of data.folds={data.folds}; -m data.folds={data.folds} runs each of them")
    if data.mean is None or data.std is None:
        mean, std, number = pixels.measured(data)  # of all folds' videos, so that the folds have the same
        mean, std = mean if data.mean is None else data.mean, std if data.std is None else data.std
        data = replace(data, mean=mean, std=std)
        lines.append(pixels.in_words(mean, std, number))
    if data.hflip is None:
        named = directions.of_direction(listing.classes)
        data = replace(data, hflip=not named)
        if named:
            lines.append(f"data.hflip=false: classes name directions ({', '.join(named[:3])})")
    if not recipe.epochs:
        videos = len(listing.entries["train"])
        if data.folds > 1:  # the folds have the same, whatever their sizes
            videos = (videos + len(listing.entries["val"])) * (data.folds - 1) // data.folds
        videos = min(videos, recipe.train_videos or videos)
        steps = max(1, steps_of_epoch(config.trainer.more, videos * recipe.repeats // recipe.batch_size))
        key = "least_steps" if recipe.max_steps is None else "max_steps"
        number = recipe.max_steps or recipe.least_steps
        epochs = ceil(number / steps)
        every = max(recipe.val_every, epochs // MOST_VALIDATIONS)
        epochs = every * ceil(epochs / every)  # so that the last one has a validation
        lines.append(
            f"recipe.epochs={epochs} recipe.val_every={every}: of {steps} steps each, for recipe.{key}={number}; "
            "recipe.epochs=N takes N"
        )
        recipe = replace(recipe, epochs=epochs, val_every=every, least_steps=0)
    config = replace(config, data=data, recipe=recipe)
    if config.init == AUTO:
        config = replace(config, init=_fitting(config, lines))
    if shipped.is_shipped(config.init):
        theirs = shipped.about(shipped.file_of(str(config.init)).stem)["classes"]
        config = replace(config, new_classifier=config.new_classifier or theirs != listing.classes)
    for line in lines:
        if line not in _said:
            _said.add(line)
            say(line)
    return config


def _fitting(config: Config, lines: list[str]) -> str | None:
    """Return the shipped weights of a config's model and clip; None if there are none, and a line why not."""
    reasons = []
    for name in shipped.names():
        theirs = shipped.about(name)["config"]
        if theirs["model"]["name"] != config.model.name:
            reasons.append(f"{shipped.PREFIX}{name} is of model={theirs['model']['name']}")
            continue
        of_both = [
            (theirs["clip"], asdict(config.clip), ("T", "crop")),
            (network_of(theirs["model"]), network_of(asdict(config.model)), tuple(network_of(theirs["model"]))),
        ]
        other = [f"{key}={of[key]}" for of, ours, keys in of_both for key in keys if of[key] != ours.get(key)]
        if not other:
            lines.append(f"init={shipped.PREFIX}{name}: with a new classifier; init=null trains from scratch")
            return f"{shipped.PREFIX}{name}"
        reasons.append(f"{shipped.PREFIX}{name} is of {', '.join(other[:3])}")
    lines.append(f"init=null: from scratch, since {'; '.join(reasons) or 'nothing is shipped'}")
    return None
