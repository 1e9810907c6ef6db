"""Parse a video, photo and overlay side by side: `python examples/03_video.py [VIDEO]`."""

import sys
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

from hp_sdk import Parser
from hp_sdk.video import VideoWriter, open_video

FRAMES = 16


def sample_clip(path: Path) -> Path:
    """A camera that moves towards the astronaut's face, as a short clip."""
    image = cv2.imread(str(Path(__file__).with_name("astronaut.jpg")), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    with VideoWriter(path, fps=8) as video:
        for step in np.linspace(0, 1, FRAMES):
            side, x, y = (round(end) for end in (512 - 192 * step, 70 * step, 0))
            window = image[y : y + side, x : x + side]
            frame = cv2.resize(window, (320, 320), interpolation=cv2.INTER_AREA)
            video.write(np.asarray(frame, np.uint8))
    return path


out = Path("out/03_video")
clip = Path(sys.argv[1]) if len(sys.argv) > 1 else sample_clip(out / "clip.mp4")
with open_video(clip) as opened:
    fps = opened.fps or 25.0

start = perf_counter()
with Parser.load("cihp") as parser, VideoWriter(out / "overlay.mp4", fps=fps) as video:
    for result in parser.stream(clip):  # frames are decoded while others are parsed
        assert result.image is not None  # results keep their photo
        video.write(np.hstack([result.image, result.overlay()]))

print(f"{video.frames} frames in {perf_counter() - start:.1f} s, model loading included")
print("the clip, photo and overlay side by side, is", video.path)
