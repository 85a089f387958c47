"""What a checkpoint sees in a video, or in many: `python src/predict.py ckpt=logs/.../last.ckpt video=some.mp4`."""

from stat_video.commands.predict import main

if __name__ == "__main__":
    main()
