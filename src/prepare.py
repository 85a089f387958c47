"""Look at, or make copies of, a data set: `python src/prepare.py do=verify data=kinetics400`."""

from stat_video.commands.prepare import main

if __name__ == "__main__":
    main()
