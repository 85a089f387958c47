"""Write a checkpoint as a program that runs without this project: `python src/export.py ckpt=... to=[pt2,onnx]`."""

from stat_video.commands.export import main

if __name__ == "__main__":
    main()
