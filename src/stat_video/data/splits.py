"""The splits of a data set. Apart, so that the processes which draw the built-in videos start without torch."""

SPLITS = ("train", "val")
