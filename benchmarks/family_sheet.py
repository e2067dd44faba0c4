"""Every family on the same clips for the same time, side by side: one sheet with a row a family.

    python benchmarks/family_sheet.py --data FOLDER --minutes 15 --out runs/robot

Each family is trained with its cpu preset for --minutes; the same command continues where an earlier one stopped, and
only samples where nothing is left to train. The first row is the beginning of the first clip, the others are clips of
--seed; a family that predicts continues the first frames of the real one, as many as in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from runs import trained

from kinema.cli.reading import first_frames, open_and_report
from kinema.data.clips import FolderSource
from kinema.data.writing import contact_sheet, write_image
from kinema.presets import preset
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.request import GenerateRequest

FAMILIES = ["mocogan", "vgan", "tgan", "svg-lp", "latent-dit"]
COLUMNS = 8  # frames shown


def main() -> None:
    """Train, sample, and write the sheet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, metavar="FOLDER", help="of clips")
    parser.add_argument("--minutes", type=float, required=True, help="of training for each family, in all")
    parser.add_argument("--out", type=Path, required=True, help="for the runs and sheet.png")
    parser.add_argument("--seed", type=int, default=0, help="of the clips shown (%(default)s)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="all if not given")
    arguments = parser.parse_args()
    if arguments.minutes <= 0:
        parser.error("--minutes must be more than 0")

    keep_freed_memory()
    changes = {"data": {"source": arguments.data}, "train": {"minutes": arguments.minutes}}
    experiments = {name: preset(name, "cpu").changed(**changes) for name in arguments.families}
    source = open_and_report(next(iter(experiments.values())).data)
    if not isinstance(source, FolderSource):
        parser.error(f"--data {arguments.data} is a world: name a folder of clips")
    models = {name: trained(each, arguments.out / name, source) for name, each in experiments.items()}
    frames, rows = source.spec.frames, {}
    for name, model in models.items():
        real = rows.setdefault("real", first_frames(model, source.clips[0], frames))
        known = real[None, : model.family.context_frames] if model.family.context_frames else None
        rows[name] = model.generate(GenerateRequest((arguments.seed,), frames, known=known))[0]
    path = arguments.out / "sheet.png"
    print(write_image(path, contact_sheet(np.stack([*rows.values()]), columns=COLUMNS, labels=[*rows])))


if __name__ == "__main__":
    main()
