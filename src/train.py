"""Train a model, or with -m sweep over several: `python src/train.py experiment=ablation_window t_o=5`."""

from stat_video.commands.train import main

if __name__ == "__main__":
    main()
