"""Test a checkpoint, or the mean of several, with any views: `src/evaluate.py ckpt=logs/.../last.ckpt views=3x3`."""

from stat_video.commands.evaluate import main

if __name__ == "__main__":
    main()
