"""Look at, or make copies of, a data set: `python src/prepare.py do=verify data=kinetics400`."""

import shlex
from pathlib import Path

import stat_video.launch.early  # isort: skip  # noqa: F401
from stat_video.config import PrepareConfig
from stat_video.data import pixels
from stat_video.data.config import DataConfig
from stat_video.data.lists import find_root, manifest_hash
from stat_video.data.manifest import DAMAGED, UNREADABLE, in_both_splits, manifest_path
from stat_video.errors import InputError
from stat_video.launch.script import script
from stat_video.progress import say, show_table


def prepare(config: PrepareConfig) -> None:
    """Verify a data set, or transcode it and verify the copies; InputError if it cannot be done."""
    from stat_video.data.transcode import copies_config, copies_table, measure, transcode  # takes seconds to import

    if config.do == "verify":
        verify_and_say(config.data, config.workers)
        return
    if config.data.built_in is not None:
        raise InputError(f"data={config.data.name}: built-in videos are made to be read fast and need no copies")
    if config.out is None:
        raise InputError("out is not given: out=FOLDER names a new one for the copies")
    out = Path(config.out)
    copies = transcode(config.data, out, config.encoding, config.workers)
    show_table(copies_table(out, copies, measure(find_root(config.data), out, copies, config.T)))
    also = "" if config.data.videos == "." else " data.videos=."
    setting = shlex.quote(f"{config.data.setting}={out}")
    say(f"Use them with {setting} data.layout=lists{also}")
    verify_and_say(copies_config(config.data, out), config.workers)


def verify_and_say(data: DataConfig, workers: int | None) -> None:
    """Verify; print each broken video, the videos that are in both splits, the counts, and where the manifest is.

    Raises InputError at the end if more videos are absent or unreadable than training allows.
    """
    from stat_video.data.verify import check_shares, summary_table, verify

    rows = verify(data, workers)
    for row in {row.path: row for row in rows}.values():  # a video may be in both splits
        if row.status in (DAMAGED, UNREADABLE):
            say(f"{row.path}: {row.status} ({row.reason})")
    if both := in_both_splits(rows):
        say(f"{len(both)} validation videos are training videos too, first {both[0][1]} = {both[0][0]}")
    show_table(summary_table(data.name, rows))
    path = manifest_path(find_root(data), data)
    say(f"{path} (state {manifest_hash(data)}); videos by class and all that is wrong in _classes and _problems beside")
    check_shares(data, rows)
    if data.mean is None or data.std is None:
        say(pixels.in_words(*pixels.measured(data)))


def main() -> None:
    """Run the command line."""
    script("prepare", PrepareConfig, prepare)


if __name__ == "__main__":
    main()
