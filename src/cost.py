"""What training costs before it is paid for: `python src/cost.py experiment=ablation_window gpu=A100-80GB`.

Without a word the GFLOPs of the paper beside ours; with table=6 or table=7 those of the other systems."""

from stat_video.commands.cost import main

if __name__ == "__main__":
    main()
