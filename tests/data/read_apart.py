"""Read folders of clips as training does, each in a process of its own that is forked: run by test_hostile.py.

Each line of its input is JSON of [folder, settings of DataConfig]. For each it prints a line of JSON: how many clips
can be used, their frames, the lines that say why others cannot, the notes, the seconds that it took, and the megabytes
of memory that it held at most.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from kinema.data.clips import DataConfig, FolderClips

HANG = 30  # seconds


def read(folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What becomes of the clips of a folder."""
    try:
        clips = FolderClips(DataConfig(folder, frames=2, height=16, width=16, cache=f"{folder}.cache", **settings))
        found = {clip: frames for clip, frames in clips.decode(range(len(clips.clips))) if frames}
        clips.read([(clip, 0) for clip in found])  # with actions and captions
    except ValueError as error:
        return {"frames": [], "lines": [str(error)], "notes": []}
    except Exception:  # all that must not be raised
        return {"frames": [], "lines": [f"FAILED {traceback.format_exc()}"], "notes": []}
    return {
        "frames": [*found.values()],
        "lines": [f"{one.name}: {one.reason}" for one in clips.skipped],
        "notes": clips.notes,
    }


def main() -> None:
    normal, none = sys.argv[1], dict[str, Any]()
    read(normal, none)  # imports all that is needed
    for line in sys.stdin:
        folder, settings = json.loads(line)
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            signal.alarm(HANG)
            Path(f"{folder}.json").write_text(json.dumps(read(folder, settings)))
            os._exit(0)
        _, status, usage = os.wait4(child, 0)
        found = json.loads(Path(f"{folder}.json").read_text()) if status == 0 else {"lines": [f"FAILED with {status}"]}
        found |= {"seconds": time.monotonic() - begun, "megabytes": usage.ru_maxrss // 1024}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
