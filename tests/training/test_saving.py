"""Checkpoints that are checked, kept and fallen back from; and where a resumed epoch begins."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from on_ranks import on_ranks
from stat_video.config import TrainerKeys
from stat_video.data.dataset import TrainSampler
from stat_video.errors import InputError, Stopped
from stat_video.runs.run import Run
from stat_video.slurm_job import requeue
from stat_video.training import saving as saving_file
from stat_video.training.checkpoint import newest_whole, read_checkpoint
from stat_video.training.saving import AtomicCheckpointIO, CheckpointWriter, Saving, Signals, on_host
from stat_video.weights.read import damage

OURS = {
    "stat_video": {"config": {"seed": 3}, "classes": ["a"], "format": 1, "place": {"epoch": 1, "clips": 16}},
    "state_dict": {"model.head.weight": torch.arange(6000.0)},
}


def write(run: Run, epochs: range, keep: int = 2) -> None:
    for epoch in epochs:
        AtomicCheckpointIO(keep).save_checkpoint({**OURS, "epoch": epoch}, run.checkpoint)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", "12345678")


def test_a_checkpoint_is_a_zip_with_a_crc_of_each_part(run: Run) -> None:
    write(run, range(1))
    assert damage(run.checkpoint) is None
    assert torch.load(run.checkpoint, weights_only=True)["epoch"] == 0
    with zipfile.ZipFile(run.checkpoint) as archive:
        assert archive.testzip() is None
        assert all(part.CRC for part in archive.infolist())
        assert archive.comment == b""  # the seal that once stood here is gone


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_changed_byte_is_found(run: Run, share: float) -> None:
    """torch itself would load most of these."""
    write(run, range(1))
    content = bytearray(run.checkpoint.read_bytes())
    content[int(len(content) * share)] ^= 1
    run.checkpoint.write_bytes(content)
    assert damage(run.checkpoint) is not None
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(run.checkpoint)


def test_a_file_that_something_else_wrote_is_read(run: Run) -> None:
    run.folder.mkdir()
    torch.save(OURS, run.checkpoint)
    assert read_checkpoint(run.checkpoint).place == {"epoch": 1, "clips": 16}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_are_kept(run: Run, keep: int) -> None:
    write(run, range(5), keep)
    assert [read_checkpoint(path).epoch for path in run.checkpoints] == [4, 3, 2][:keep]
    assert [path.name for path in run.checkpoints] == ["last.ckpt", "last-1.ckpt", "last-2.ckpt"][:keep]
    assert len(list(run.folder.iterdir())) == keep


def test_a_broken_newest_falls_back_with_a_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, range(3))
    whole = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(whole[: len(whole) // 2])
    chosen = newest_whole(run)
    assert chosen is not None
    assert (chosen.path.name, chosen.epoch) == ("last-1.ckpt", 1)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"{run.checkpoint}: damaged or truncated" in said
    assert "going on from the one before" in said
    assert sorted(p.name for p in run.folder.iterdir()) == ["last-1.ckpt", "last.broken"]
    write(run, range(3, 4))  # the one gone on from is kept, not the broken one
    assert [read_checkpoint(path).epoch for path in run.checkpoints] == [3, 1]


def test_killed_between_two_names_nothing_is_lost(run: Run) -> None:
    write(run, range(2))
    run.checkpoint.unlink()  # it has been renamed, and the new one has not
    chosen = newest_whole(run)
    assert chosen is not None
    assert chosen.epoch == 0
    assert run.state == "to resume"


def test_none_whole_is_refused_instead_of_started_over(run: Run) -> None:
    assert newest_whole(run) is None  # not begun
    write(run, range(2))
    for path in run.checkpoints:
        path.write_bytes(b"")
    with pytest.raises(InputError, match="fresh=true"):
        newest_whole(run)
    assert len(run.checkpoints) == 2


def test_a_checkpoint_of_an_epochs_end_without_a_place(run: Run) -> None:
    old = {**OURS, "stat_video": {"config": {}, "classes": []}, "epoch": 4}
    AtomicCheckpointIO().save_checkpoint(old, run.checkpoint)
    assert read_checkpoint(run.checkpoint).goes_on_at == (5, 0)


# ------------------------------------------------------------------------------------------- beside the training


class Disk:
    """A disk that takes a file when it is told to, and notes what happens to it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ready, self.events, self.failing = threading.Event(), [], False
        replacing = saving_file.replacing

        @contextmanager
        def slow(path: Path, keep: int) -> Iterator[Any]:
            self.events.append(f"begin {path.name}")
            assert self.ready.wait(60)
            with replacing(path, keep) as file:
                if self.failing:
                    raise OSError(28, "No space left on device")
                yield file
            self.events.append(f"end {path.name}")

        patch.setattr(saving_file, "replacing", slow)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_what_is_written_is_the_state_at_the_save(run: Run, disk: Disk) -> None:
    weight = torch.zeros(3, requires_grad=True)
    state = {**OURS, "state_dict": {"model.w": weight.detach()}, "loops": {"steps": [1]}}
    writer = CheckpointWriter(2)
    writer.save_checkpoint(state, run.checkpoint)  # returns, though the disk takes nothing
    assert not run.checkpoint.exists()
    with torch.no_grad():
        weight.fill_(7)  # the next step
    state["loops"]["steps"].append(2)
    writer.raise_failed()
    disk.ready.set()
    writer.teardown()
    found = torch.load(run.checkpoint, weights_only=True)
    assert found["state_dict"]["model.w"].tolist() == [0, 0, 0]
    assert found["loops"] == {"steps": [1]}


def test_a_second_save_waits_for_the_first(run: Run, disk: Disk) -> None:
    writer = CheckpointWriter(2)
    writer.save_checkpoint({**OURS, "epoch": 0}, run.checkpoint)
    second = threading.Thread(target=writer.save_checkpoint, args=({**OURS, "epoch": 1}, run.checkpoint))
    second.start()
    disk.ready.set()
    second.join()
    writer.teardown()
    assert disk.events == ["begin last.ckpt", "end last.ckpt"] * 2
    assert [read_checkpoint(path).epoch for path in run.checkpoints] == [1, 0]


@pytest.mark.parametrize(
    "call",
    [
        CheckpointWriter.raise_failed,
        CheckpointWriter.teardown,
        lambda writer: writer.save_checkpoint({**OURS, "epoch": 2}, "nowhere"),
    ],
    ids=["step's end", "wait", "save"],
)
def test_what_the_disk_did_not_take_is_raised_once_by_the_next_call(call: Any, run: Run, disk: Disk) -> None:
    disk.ready.set()
    writer = CheckpointWriter(2)
    writer.save_checkpoint({**OURS, "epoch": 0}, run.checkpoint)
    writer.teardown()
    disk.failing = True
    writer.save_checkpoint({**OURS, "epoch": 1}, run.checkpoint)
    assert writer.writing is not None
    writer.writing.exception()  # the write has ended
    with pytest.raises(InputError, match=r"last\.ckpt: could not be written \(No space left on device\)"):
        call(writer)
    writer.raise_failed()
    writer.teardown()
    assert read_checkpoint(run.checkpoint).epoch == 0
    assert len(list(run.folder.iterdir())) == 1


def test_a_copy_shares_nothing_and_keeps_every_kind() -> None:
    layer = torch.nn.BatchNorm1d(2)
    state = layer.state_dict()
    copied = on_host({"a": state, "b": [torch.ones(2), (1, "x")], "c": None})
    assert type(copied["a"]) is type(state)
    assert copied["a"]._metadata == state._metadata  # type: ignore[attr-defined]  # versions of the layers
    for name, value in state.items():
        assert torch.equal(copied["a"][name], value)
        assert copied["a"][name].untyped_storage().data_ptr() != value.untyped_storage().data_ptr()
    assert copied["b"][1] == (1, "x")


@pytest.mark.parametrize("repeats", [1, 2])
def test_an_epoch_is_taken_up_where_it_was_left(repeats: int) -> None:
    how: dict[str, Any] = {"seed": 3, "repeats": repeats, "rank": 1, "world_size": 2}
    whole, resumed = TrainSampler(21, **how), TrainSampler(21, **how, start=(2, 6))
    whole.set_epoch(2)
    expected = list(whole)
    assert list(resumed) == expected[6:]  # a loader with workers asks before Lightning names the epoch
    resumed.set_epoch(2)
    assert list(resumed) == expected[6:]
    assert len(resumed) == len(whole)
    for sampler in (whole, resumed):
        sampler.set_epoch(3)
    assert list(resumed) == list(whole) != expected


# ------------------------------------------------------------------------------------------------- when it is saved


def trainer(**changes: Any) -> Any:
    how = {"world_size": 1, "is_global_zero": True, "global_step": 5, "num_training_batches": 8, "current_epoch": 0}
    how |= {"accumulate_grad_batches": 2, "check_val_every_n_epoch": 1}
    called: list[str] = []
    disk = SimpleNamespace(raise_failed=lambda: None, teardown=lambda: called.append("disk"))
    how |= {"strategy": SimpleNamespace(checkpoint_io=disk, barrier=lambda: called.append("barrier"), called=called)}
    return SimpleNamespace(**{**how, **changes})


class Counting(Saving):
    """Counts what it would write."""

    def __init__(self, **config: Any) -> None:
        super().__init__(Run(Path("run"), "id"), TrainerKeys(**config))
        self.written: list[int] = []
        self.saved = float("inf")  # never due by the clock

    def save(self, trainer: Any) -> None:
        self.written.append(self.batch)

    def epoch(self, trainer: Any) -> list[int]:
        """Batches after which something is written."""
        for self.batch in range(trainer.num_training_batches):
            trainer.global_step = (self.batch + 1) // trainer.accumulate_grad_batches
            self.on_train_batch_start()
            self.on_train_batch_end(trainer, None, None, None, self.batch)
        return self.written


def test_written_between_steps_alone_and_before_a_validation() -> None:
    assert Counting().epoch(trainer()) == [5]  # the last step's two passes and the validation are all that can be lost
    assert Counting().epoch(trainer(check_val_every_n_epoch=2)) == []
    assert Counting(save_steps=1).epoch(trainer()) == [1, 3, 5]
    assert Counting(save_steps=2).epoch(trainer(check_val_every_n_epoch=2)) == [3]
    due = Counting(save_minutes=1)
    due.saved = 0.0
    assert due.epoch(trainer()) == [1, 3, 5]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_saves_first(signum: int, code: int) -> None:
    saving = Counting()
    saving._note(signum, None)
    its = trainer()
    with pytest.raises(Stopped) as stopped:
        saving.epoch(its)
    assert stopped.value.code == code
    assert saving.written == [1]  # at the end of the first step, not inside it
    assert its.strategy.called == ["disk", "barrier"]  # and the file is whole before any rank ends


def test_sigusr1_saves_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    saving = Counting()
    saving._note(signal.SIGUSR1, None)
    assert saving.epoch(trainer(check_val_every_n_epoch=2)) == [1, 3, 5]  # `save` itself takes it as answered


def test_sigusr1_under_slurm_puts_the_job_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for key, value in (("SLURM_NTASKS", "1"), ("SLURM_JOB_NAME", "stat"), ("SLURM_JOB_ID", "77")):
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    saving = Counting()
    saving._note(signal.SIGUSR1, None)
    with pytest.raises(Stopped) as stopped:
        saving.epoch(trainer())
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert saving.written == [1]
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue() == "job 70_3 is put back into the queue and continues"
    with pytest.raises(Stopped):
        saving.on_test_batch_end(trainer())  # the warning may come in a test too
    assert calls.read_text() == "requeue 77\n" + 2 * "requeue 70_3\n"


@pytest.mark.parametrize(
    ("sender", "shown", "code"),
    [  # what SLURM 22.05 shows while a job handles its SIGTERM, as measured
        ("preemption with a grace time", "JobState=RUNNING Restarts=0 PreemptTime=2026-11-30T13:36:09", "requeued"),
        ("preemption without", "JobState=COMPLETING Restarts=1", "by SLURM"),
        ("preemption a second time", "JobState=RUNNING Restarts=1 PreemptTime=2026-11-30T13:36:09", "requeued"),
        ("scontrol requeue", "JobState=COMPLETING Restarts=1 PreemptTime=None", "by SLURM"),
        ("scancel", "JobState=COMPLETING Restarts=0 PreemptTime=None", "ends"),
        ("scancel of a job that was requeued before", "JobState=COMPLETING Restarts=1 PreemptTime=None", "ends"),
        ("scancel --signal=TERM", "JobState=RUNNING Restarts=0 PreemptTime=None", "ends"),
        ("no answer", "", "ends"),
    ],
)
def test_sigterm_under_slurm(
    sender: str, shown: str, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" = requeue ] || [ "{shown}" ] && echo "JobId=77 {shown}"\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for key, value in (("SLURM_NTASKS", "1"), ("SLURM_JOB_NAME", "stat"), ("SLURM_JOB_ID", "77")):
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1" if "before" in sender or "second" in sender else "0")
    saving = Counting()
    saving._note(signal.SIGTERM, None)
    with pytest.raises(Stopped) as stopped:
        saving.epoch(trainer())
    assert stopped.value.code == 143
    assert saving.written == [1]
    assert (stopped.value.requeued is not None) == (code != "ends")
    assert ("requeue 77" in calls.read_text()) == (code == "requeued")


def test_a_signal_that_reached_one_rank_is_known_to_all() -> None:
    """The first rank requeues the job: it has to know that SIGUSR1 came, though it came to another rank first."""

    def task(rank: int) -> None:
        os.environ.update(SLURM_NTASKS="2", SLURM_JOB_NAME="stat")
        saving = Counting()
        torch.distributed.init_process_group("gloo", init_method="env://", rank=rank, world_size=2)
        if rank == 1:
            saving._note(signal.SIGUSR1, None)
        its = trainer(world_size=2)
        assert saving._agreed(its, saving._wish(its)) == 2
        assert saving.asked == signal.SIGUSR1
        if rank == 0:
            saving._note(signal.SIGTERM, None)
        assert saving._agreed(its, saving._wish(its)) == 2
        assert saving.asked == signal.SIGTERM

    assert on_ranks(task, 2) == [None, None]


def test_a_job_that_cannot_be_put_back_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(1, ["scontrol"])

    monkeypatch.setattr(subprocess, "run", fails)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert requeue() is None
    assert "job 77 could not be put back" in caplog.text


def test_an_evaluation_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    signals = Signals()
    signals.on_test_batch_end(trainer())
    signals._note(signal.SIGUSR1, None)
    signals.on_test_batch_end(trainer())  # there is nothing to save
    signals._note(signal.SIGTERM, None)
    with pytest.raises(Stopped):
        signals.on_test_batch_end(trainer())
