"""Tables 1 to 7 from the runs below logs/, beside the paper's: `python src/report.py` writes logs/report/index.html."""

from stat_video.commands.report import main

if __name__ == "__main__":
    main()
