"""The probe videos: what they show, what they must not tell without the order of frames, and that the order does."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stat_video.data.built_in import ensure
from stat_video.data.config import DataConfig
from stat_video.data.lists import read_lists
from stat_video.data.probe import BURSTS, CLASSES, HIDDEN, MOMENTS, PLACES, ProbeConfig, draw, render

CONFIG = ProbeConfig(missing=0.0, blank=0.0, train_videos=4000, val_videos=2000)
CHANCE = 100 / len(CLASSES)


pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


@pytest.fixture(scope="module")
def drawn():
    """Places (videos, objects, moments) and labels (videos,) of both splits."""
    found = {}
    for split in ("train", "val"):
        scenes = [draw(CONFIG, split, i) for i in range(CONFIG.videos(split))]
        found[split] = np.stack([s.places for s in scenes]), np.array([s.label for s in scenes])
    return found


def by_hand(track):
    """The class of a track, read off its hops one by one."""
    hops_within = {(track[b] - track[a]) % 4 for a, b in BURSTS}
    hops_between = {(track[b] - track[a]) % 4 for (a, _), (b, _) in pairwise(BURSTS)}
    if hops_within == {0}:
        assert hops_between in ({1}, {3})
        return f"far: {'clockwise' if hops_between == {1} else 'counter-clockwise'}"
    assert hops_within in ({1}, {3})
    return f"near: {'clockwise' if hops_within == {1} else 'counter-clockwise'}"


def test_the_hops_of_the_actor_are_the_class(drawn):
    for places, label in zip(*drawn["val"], strict=True):
        assert by_hand(places[0]) == CLASSES[label]
    assert {by_hand(places[1]) for places in drawn["val"][0]} == set(CLASSES)  # the cool object does anything


def test_clockwise_is_clockwise_on_the_screen():
    """Rows grow downwards: from the upper left corner to the upper right one."""
    assert PLACES == ((-1, -1), (-1, 1), (1, 1), (1, -1))


def onehot(places):
    """(videos, objects, moments) -> (videos, features)."""
    return np.eye(len(PLACES) + 1)[np.where(places == HIDDEN, len(PLACES), places)].reshape(len(places), -1)


def accuracy(model, drawn, features):
    (train, labels), (val, answers) = drawn["train"], drawn["val"]
    return 100 * (model.fit(features(train), labels).predict(features(val)) == answers)


def joint(places):
    """(videos, 2 objects, 1 moment) -> one feature for each pair of places: with these no other probe does better."""
    seen = np.where(places == HIDDEN, len(PLACES), places)[:, :, 0]
    return np.eye(25)[seen[:, 0] * 5 + seen[:, 1]]


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_no_single_moment_tells_more_than_chance(drawn, moment):
    """All that differs between classes is `places`, so a probe that is given them sees all that a frame can show."""
    found = accuracy(LogisticRegression(), drawn, lambda p: joint(p[:, :, moment : moment + 1]))
    assert found.mean() < CHANCE + 3


def test_frames_without_their_order_do_not_tell_the_near_classes_apart(drawn):
    """Each video's moments are shuffled; chance within the near half is one in two."""

    def near(split):
        places, labels = drawn[split]
        return places[labels < 2], labels[labels < 2]

    halves = {split: near(split) for split in drawn}
    rng = np.random.default_rng(0)

    def shuffled(places):
        return onehot(np.stack([p[:, rng.permutation(MOMENTS)] for p in places]))

    model = MLPClassifier((32,), max_iter=12, learning_rate_init=5e-3, random_state=0)
    assert abs(accuracy(model, halves, shuffled).mean() - 50) < 3 + 1.5  # 1000 videos: one standard deviation is 1.6


def test_the_order_tells(drawn):
    """The same probe learns the near classes where the order is kept; else the tests above would prove nothing."""
    halves = {split: (places[labels < 2][:, :1], labels[labels < 2]) for split, (places, labels) in drawn.items()}
    model = MLPClassifier((32,), max_iter=25, learning_rate_init=5e-3, random_state=0)
    assert accuracy(model, halves, onehot).mean() > 90


def test_pixels_of_a_frame_do_not_tell():
    """Rendered, so that nothing but the places slips in: a linear probe on single frames."""
    config = ProbeConfig(train_videos=800, val_videos=800)
    frames = {}
    for split in ("train", "val"):
        scenes = [draw(config, split, i) for i in range(config.videos(split))]
        frames[split] = (
            np.stack([render(s)[[3, 9], 2::4, 2::4].reshape(2, -1) for s in scenes]),
            np.array([s.label for s in scenes]),
        )
    for k in range(2):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=100))
        assert accuracy(model, frames, lambda x, k=k: x[:, k]).mean() < CHANCE + 4.5  # 800 videos: deviation 1.5


def test_as_many_are_missing_as_asked_for():
    def seen(**chances):
        config = ProbeConfig(train_videos=1000, alone=0.0, **chances)
        return np.stack([draw(config, "train", i).places != HIDDEN for i in range(1000)])  # (videos, objects, moments)

    assert seen(missing=0.0, blank=0.0).mean() == pytest.approx(6 / 8)
    assert seen(missing=0.2, blank=0.0).mean() == pytest.approx(0.8 * 6 / 8, abs=0.01)
    actor, cool = seen(missing=0.0, blank=0.1).any(2).T
    assert actor.mean() == pytest.approx(0.9, abs=0.025)  # 1000 videos: one standard deviation is 0.0095
    assert cool.all()


def test_half_of_the_training_videos_are_easier_and_else_the_same():
    """There the actor is alone and at all of its places; the others, and the validation videos, are as without."""
    config, without = ProbeConfig(), ProbeConfig(alone=0.0)
    easier = 0
    for split in ("train", "val"):
        for i in range(400):
            one, two = draw(config, split, i), draw(without, split, i)
            assert (one.label, one.radius, one.noise) == (two.label, two.radius, two.noise)
            if np.array_equal(one.places, two.places):
                continue
            easier += 1
            assert split == "train"
            assert by_hand(one.places[0]) == CLASSES[one.label]
            assert (one.places[1:] == HIDDEN).all()
    assert easier / 400 == pytest.approx(0.5, abs=0.1)  # one standard deviation is 0.025


def test_objects_are_where_they_were_drawn():
    scene = draw(ProbeConfig(cool=0), "train", 1)
    frames = render(scene).astype(float)
    red = frames[..., 0] - frames[..., 2]  # the actor is warm
    for moment, place in enumerate(scene.places[0]):
        frame = red[moment * 6 + 3]
        if place == HIDDEN:
            assert frame.max() < 100
        else:
            row, column = np.unravel_index(frame.argmax(), frame.shape)
            assert (row > 24, column > 24) == (PLACES[place][0] > 0, PLACES[place][1] > 0)


def test_written_and_listed_like_any_other(tmp_path):
    config = ProbeConfig(train_videos=8, val_videos=4)
    folder = ensure(tmp_path, config, progress=False)
    lists = read_lists(folder, DataConfig(name="probe", probe=config))
    assert lists.counts == {"train": 8, "val": 4}
    assert lists.classes == list(CLASSES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cool", 3),
        ("cool", "one"),
        ("missing", 1.0),
        ("blank", -0.1),
        ("alone", 1.1),
        ("train_videos", 3),
        ("classes", ["far"]),
    ],
)
def test_bad_values_are_one_line(field, value):
    with pytest.raises(ValueError, match=f"^data.probe.{field}=") as error:
        ProbeConfig(**{field: value})
    assert "\n" not in str(error.value)
