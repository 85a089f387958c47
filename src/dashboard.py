"""The W&B dashboard of the paper's tables: `python src/dashboard.py`; with dry_run=true files, without an account."""

from stat_video.commands.dashboard import main

if __name__ == "__main__":
    main()
