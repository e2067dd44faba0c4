"""A browser shows and plays what is written: every frame at its time, in its colours, with its sound beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest

from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.readers.base import read_audio, read_frames
from kinema.data.writing import write_video

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the PATH")]

FRAMES, HEIGHT, WIDTH, BITS = 75, 96, 128, 7
FLASHES = (0, 7, 30, 51, 70)  # frames that are white, and at whose start the sound clicks
WHITE = (255, 255, 255)
COLOURS = ((200, 40, 30), (20, 60, 220), (30, 170, 60), (128, 128, 128), (16, 16, 16), (240, 220, 40))  # in turn
CLICK = 1000  # hertz
TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}
LEVELS = 3  # by which a colour may be off
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    # SwiftShader, because without it and a GPU Chromium takes some of the blue off BT.709
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
    "--no-first-run",
    # nothing but this machine is reached
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
PAGE = """<!doctype html><meta charset="utf-8"><script>
async function once(target, name) {
  await new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, {once: true});
    target.addEventListener("error", () => reject(new Error(name + ": " + target.error?.message)), {once: true});
  });
}
async function measure(type, rate, frames, bits, soundRate) {
  const bytes = await (await fetch("clip")).arrayBuffer();
  const video = document.createElement("video");
  Object.assign(video, {muted: true, preload: "auto", src: URL.createObjectURL(new Blob([bytes], {type}))});
  await once(video, "loadeddata");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d", {willReadFrequently: true, colorSpace: "srgb"});
  const mean = (x, y, w, h) => {  // of pixels away from edges
    const data = context.getImageData(x, y, w, h).data, sum = [0, 0, 0];
    for (let i = 0; i < data.length; i++) if (i % 4 < 3) sum[i % 4] += data[i] / (w * h);
    return sum;
  };
  const look = () => {
    context.drawImage(video, 0, 0);
    let number = 0;
    for (let b = 0; b < bits; b++) if (mean(16 * b + 4, canvas.height - 12, 8, 8)[1] > 128) number += 2 ** b;
    return {number, colour: mean(16, 16, canvas.width - 32, canvas.height - 64)};
  };
  const seek = async (time) => {  // until its frame is there, which may be after the event
    const shown = new Promise((resolve) => video.requestVideoFrameCallback(resolve));
    const sought = once(video, "seeked");
    video.currentTime = time;
    await sought;
    await Promise.race([shown, new Promise((resolve) => setTimeout(resolve, 2000))]);
  };
  const sought = [], played = [];
  for (let k = 0; k < frames; k++) {
    await seek((k + 0.5) / rate);
    sought.push(look());
  }
  await seek(0);
  video.requestVideoFrameCallback(function show(now, metadata) {
    played.push({time: metadata.mediaTime, number: look().number});
    video.requestVideoFrameCallback(show);
  });
  const ended = once(video, "ended");
  await video.play();
  await ended;
  const sound = await new OfflineAudioContext(1, 1, soundRate).decodeAudioData(bytes);
  return {
    duration: video.duration, size: [video.videoWidth, video.videoHeight], sought, played,
    sound: Array.from(sound.getChannelData(0), (x) => Math.round(x * 1e4) / 1e4),
  };
}
measure(...WORDS).catch((error) => ({error: String(error)})).then(
  (found) => fetch("found", {method: "POST", body: JSON.stringify(found)}));
</script>"""


def picture(number: int) -> np.ndarray:
    """A frame of its colour, with its number in black and white squares below, the lowest bit first."""
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    frame[:] = WHITE if number in FLASHES else COLOURS[number % len(COLOURS)]
    frame[-32:] = 0
    for bit in range(BITS):
        frame[-16:, 16 * bit : 16 * bit + 16] = 255 * (number >> bit & 1)
    return frame


def clicks(fps: float) -> np.ndarray:
    """Sound with a click at the start of every flash."""
    sound = np.zeros(round(FRAMES / fps * SAMPLE_RATE), np.float32)
    wave = 0.8 * np.sin(2 * np.pi * CLICK * np.arange(SAMPLE_RATE // 50) / SAMPLE_RATE)
    for frame in FLASHES:
        begin = round(frame / fps * SAMPLE_RATE)
        sound[begin : begin + len(wave)] = wave
    return sound


def onsets(sound: np.ndarray, rate: int) -> np.ndarray:
    """The times in seconds at which clicks begin."""
    loud = np.flatnonzero(np.abs(sound) > 0.25 * np.abs(sound).max())
    return loud[np.diff(loud, prepend=-rate) > 0.05 * rate] / rate


def in_browser(path: Path, fps: float, folder: Path) -> Mapping[str, Any]:
    """What the browser measures of a file; it reaches this machine only."""
    words = json.dumps([TYPES[path.suffix], fps, FRAMES, BITS, SAMPLE_RATE])
    found: Queue[Mapping[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = PAGE.replace("WORDS", words).encode()
            self.answer({"/": page, "/clip": path.read_bytes()}.get(self.path))

        def do_POST(self) -> None:
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(b"")

        def answer(self, content: bytes | None) -> None:
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder}", f"http://127.0.0.1:{server.server_port}/"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return found.get(timeout=120)
        finally:
            browser.terminate()
            browser.wait(timeout=30)
            server.shutdown()


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("fps", [25.0, 29.97])
def test_a_browser_shows_what_is_written(tmp_path: Path, suffix: str, fps: float) -> None:
    frames = np.stack([picture(k) for k in range(FRAMES)])
    path = write_video(tmp_path / f"clip{suffix}", frames, fps, clicks(fps))
    found = in_browser(path, fps, tmp_path / "profile")
    assert "error" not in found, found
    assert found["size"] == [WIDTH, HEIGHT] and found["duration"] == pytest.approx(FRAMES / fps, abs=0.5 / fps)
    assert [one["number"] for one in found["sought"]] == [*range(FRAMES)]
    shown = np.array([one["colour"] for one in found["sought"]])
    off = np.abs(shown - frames[:, 20, 20])
    assert off.max() <= LEVELS
    late = np.array([one["time"] - one["number"] / fps for one in found["played"]])
    assert len(late) > FRAMES // 3 and np.abs(late).max() < 2e-3  # a busy machine shows fewer
    flashes = np.array(FLASHES) / fps
    read = [*read_frames(path)]
    assert len(read) == FRAMES and np.abs(np.stack(read)[:, 20, 20].astype(int) - frames[:, 20, 20]).max() <= LEVELS
    for sound in (np.array(found["sound"]), read_audio(path, SAMPLE_RATE)):
        shift = onsets(sound, SAMPLE_RATE) - flashes
        print(f"{suffix} at {fps:g}: colours off by {off.max():.1f}, clicks late by {1e3 * shift.max():.2f} ms")
        assert np.abs(shift).max() < 2e-3 < 1 / fps
