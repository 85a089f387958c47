"""The phases of check_gpu.py, a file each, and what they share."""
