"""Which class a logit is of: the known orders are those of their sources, and orders are told by names."""

import hashlib
import re
from pathlib import Path

import pytest

from stat_video.errors import InputError
from stat_video.weights.classes import FOLDER, columns_for, known_orders, read_order

SIZES = {"kinetics400": 400, "kinetics600": 600, "kinetics700": 700, "ssv2": 174}


@pytest.mark.parametrize("name", SIZES)
def test_a_known_order_is_as_its_digest_and_its_data_set_say(name: str) -> None:
    names = read_order(name).names
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert re.search(r"^# source: .+\((Apache-2.0|BSD-3-Clause)\)$", text, re.MULTILINE)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert f"# sha256: {digest} " in text
    assert len(set(names)) == SIZES[name]
    assert sorted(known_orders()) == sorted(SIZES)
    assert columns_for(names, [n.upper().replace(" ", "_") for n in names]) == list(range(len(names)))


def test_kinetics_400_is_in_torchvisions_order() -> None:
    from torchvision.models.video import MViT_V1_B_Weights, R3D_18_Weights, Swin3D_T_Weights

    for weights in (MViT_V1_B_Weights, R3D_18_Weights, Swin3D_T_Weights):
        assert read_order("kinetics400").names == weights.KINETICS400_V1.meta["categories"]


def test_columns_bring_logits_into_the_order_of_the_data() -> None:
    order, classes = ["Moving up", "Moving down", "Waving (hand)"], ["waving hand", "moving_up", '"Moving down"']
    logits = [10, 20, 30]
    assert [logits[i] for i in columns_for(order, classes)] == [30, 10, 20]


@pytest.mark.parametrize(
    ("order", "line"),
    [
        (["a", "b", "d"], "of 3 classes, the data of 3: only the data has 'c'; only the weights have 'd'"),
        (["a", "b"], "of 2 classes, the data of 3: only the data has 'c'"),
    ],
)
def test_other_classes_are_refused_with_the_first_name(order: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line):
        columns_for(order, ["a", "b", "c"])


def test_classes_that_the_data_does_not_have_come_last() -> None:
    assert columns_for(["a", "b", "c", "d"], ["c", "a"]) == [2, 0, 1, 3]


def test_names_that_differ_in_punctuation_alone_are_told_apart() -> None:
    assert columns_for(["a b", "ab", "c"], ["c", "ab", "a b"]) == [2, 1, 0]


def test_an_order_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("# of somebody\nb\n\n a \n")
    assert read_order(str(file)).names == ["b", "a"]
    for content, line in (("a\nb\na\n", "'a' stands there twice"), ("a\n", "must be 2 names or more")):
        file.write_text(content)
        with pytest.raises(InputError, match=line):
            read_order(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a text file"):
        read_order(str(file))
    with pytest.raises(InputError, match=r"must be a file .* kinetics400, kinetics600, kinetics700, ssv2"):
        read_order(str(tmp_path / "nowhere.txt"))
