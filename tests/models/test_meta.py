"""Operations answered from memory: as PyTorch itself answers them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stat_video.models.meta import Remembered


def form(x: Tensor) -> tuple[object, ...]:
    return x.shape, x.stride(), x.dtype, x.device, x.untyped_storage().nbytes()


def whole(x: Tensor) -> Tensor:
    return x.transpose(0, 1) * 2


OPERATIONS: dict[str, Callable[[Tensor], object]] = {
    "strides": whole,
    "integer": lambda x: x.long() * 2,
    "float": lambda x: x.long() * 2.0,
    "boolean": lambda x: x.long() * True,
    "several": lambda x: torch.native_layer_norm(x, [5], None, None, 1e-5),
    "type": lambda x: x.to(torch.bfloat16) + x,
    "of a list": lambda x: torch.cat([x, x[:2]]),
}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_result_is_as_pytorchs(operation: Callable[[Tensor], object], known: bool) -> None:
    x = torch.empty(3, 5, device="meta")
    with Remembered():
        for other in OPERATIONS.values() if known else ():
            other(x)
        found = operation(x)
    right = operation(x)
    found, right = ((r,) if isinstance(r, Tensor) else r for r in (found, right))
    assert [form(r) for r in found] == [form(r) for r in right]  # type: ignore[attr-defined]


@pytest.mark.parametrize("view", [Tensor.t, lambda x: x.view(15), lambda x: torch.ops.aten._unsafe_view(x, [15])])
def test_a_view_shares_its_memory_each_time_and_a_new_tensor_never(view: Callable[[Tensor], Tensor]) -> None:
    x = torch.empty(3, 5, device="meta")
    place = x.untyped_storage()._cdata
    with Remembered():
        assert {view(x).untyped_storage()._cdata for _ in range(3)} == {place}
        assert x.mul_(2).untyped_storage()._cdata == place
        new = [x + 1 for _ in range(3)]
    assert len({y.untyped_storage()._cdata for y in new} | {place}) == 4


def test_numbers_that_are_there_are_not_answered_from_memory() -> None:
    with Remembered():
        assert [(torch.full((2,), n) + 1).tolist() for n in (1, 2)] == [[2, 2], [3, 3]]


def test_a_known_operation_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remembered, "known", {})
    x = torch.empty(3, 5, device="meta")
    with Remembered():
        x + 1
        assert len(Remembered.known) == 1
        x + 1
    assert len(Remembered.known) == 1
