"""Synthetic ultrasound: a classifier that is trained on real cines, on generated ones, and on both.

    python benchmarks/ultrasound.py --data FOLDER --normal regular --minutes 20 --out runs/ultrasound

1. The folder's clips are written as DICOM cines, `dicom/SPLIT/LABEL/*.dcm`, with their patients' numbers. metadata.csv
   has what `benchmarks/anomaly.py` says of it. Labels are that of --normal and "other". A third of the patients of each
   label, at least two, are of the split test.
2. `kinema train` trains on the DICOM files by label for --minutes; test patients are not seen.
3. `kinema sample` makes --clips cines of each label, as DICOM, and a sheet of mp4 clips.
4. Logistic regression on frozen features of the ImageNet network is trained on windows of real cines, of as many of
   synthetic ones, of all synthetic ones, and of both, and tested on all windows of the test patients.

The area under the ROC curve is of windows; its interval is bootstrapped over patients. Where labels come from different
devices or hospitals it may tell those apart and not what the labels say. The same command continues where an earlier
one stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from anomaly import Clip, auroc_interval, read_clips
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from kinema.data.cache import digest
from kinema.data.clips import DataConfig, FolderClips
from kinema.data.readers import base
from kinema.metrics.features import FeatureNetwork, load_network
from kinema.sampling.model import load_experiment

OTHER = "other"
TESTED = 1 / 3  # share of the patients of each label
FEWEST = 2
PENALTY = 1e-2  # of squared weights in the regression on standardised features
ROUNDS = 100  # of L-BFGS

Windows = tuple[Float[np.ndarray, "N D"], np.ndarray, list[str]]  # features, whether abnormal, and patients


def split(clips: Sequence[Clip], normal: str) -> dict[str, str]:
    """Whether each patient is of the split train or test: of each label those first by a hash are tested."""
    by_label: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        by_label[normal if clip.label == normal else OTHER].add(clip.patient)
    tested = set[str]()
    for patients in by_label.values():
        if len(patients) <= FEWEST:
            sys.exit(
                f"{len(patients)} patients have clips of a label: {FEWEST} are tested, and more needed to train on"
            )
        tested |= {*sorted(patients, key=digest)[: max(FEWEST, round(TESTED * len(patients)))]}
    return {clip.patient: "test" if clip.patient in tested else "train" for clip in clips}


def write_dicom(clip: Clip, path: Path, patient: int) -> None:
    """Write a clip as a grey ultrasound cine, native, of a patient with a number."""
    import pydicom.uid

    frames = np.stack(list(base.read_frames(clip.path)))
    grey = (frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).round().astype(np.uint8)
    data = pydicom.Dataset()
    data.SOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
    data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    data.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[clip.patient])
    data.PatientID, data.PatientName, data.Modality = f"{patient:04d}", f"PATIENT^{patient}", "US"
    data.NumberOfFrames, data.Rows, data.Columns = grey.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.FrameTime, data.FrameIncrementPointer = f"{1000 / base.probe(base.Clip(clip.path)).fps:.10g}", 0x00181063
    data.PixelData = grey.tobytes()
    data["PixelData"].VR = "OB"
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def kinema(*words: object) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "kinema.cli", *map(str, words)], check=True)


def windows(folder: Path, config: DataConfig, network: FeatureNetwork) -> Windows:
    """The features of all windows that do not overlap, of a folder with class folders."""
    source = FolderClips(replace(config, source=str(folder), short="skip", holdout=0.0))
    features, labels, patients = [], [], []
    for number, count in source.decode(range(len(source.clips))):
        clip = source.clips[number]
        for start in range(0, count - config.frames + 1, config.frames):
            frames = source.frames(number)[start : start + config.frames]
            features.append(network(torch.from_numpy(frames[None]))[0].numpy())
            labels.append(clip.label == OTHER)
            patients.append(clip.group or clip.path.stem)
    return np.stack(features), np.array(labels), patients


def fit(features: Float[np.ndarray, "N D"], abnormal: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logistic regression on standardised features, classes weighted alike: mean, deviation and weights [D + 1]."""
    x, y = torch.from_numpy(features), torch.from_numpy(abnormal.astype(np.float32))
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x = F.pad((x - mean) / deviation, (0, 1), value=1.0)
    weights = torch.zeros(x.shape[1], requires_grad=True)
    of_class = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    optimizer = torch.optim.LBFGS([weights], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        errors = F.binary_cross_entropy_with_logits(x @ weights, y, reduction="none")
        value = (of_class * errors).sum() + PENALTY * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return mean, deviation, weights.detach()


def main() -> None:
    """Write the cines, train, generate, classify, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="for the cines, the run and the generated clips")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="of real clips")
    parser.add_argument("--normal", required=True, metavar="LABEL", help="of clips with nothing wrong")
    parser.add_argument("--minutes", type=float, required=True, help="of training, in all")
    parser.add_argument("--clips", type=int, default=64, help="generated of each label (%(default)s)")
    parser.add_argument("--licence", nargs="+", default=["CC BY 4.0", "CC BY 2.0"], help="%(default)s if not given")
    arguments = parser.parse_args()
    out, normal = arguments.out, arguments.normal
    clips = read_clips(arguments.data, arguments.licence)
    splits, numbers = split(clips, normal), {name: k for k, name in enumerate(sorted({c.patient for c in clips}), 1)}
    for clip in clips:
        label = normal if clip.label == normal else OTHER
        path = out / "dicom" / splits[clip.patient] / label / f"{clip.path.stem}.dcm"
        if not path.exists():
            write_dicom(clip, path, numbers[clip.patient])
    kinema("data", "check", out / "dicom", "--out", out / "dicom.png")
    run = out / "run"
    resume = ["--resume"] if run.exists() else []
    source = resume or ["--data", out / "dicom"]
    kinema("train", *source, "--out", run, "--minutes", arguments.minutes)
    for label in (normal, OTHER):
        made = out / "synthetic" / label
        if not made.exists():
            kinema("sample", run, "--label", label, "--count", arguments.clips, "--format", "dcm", "--out", made)
            kinema("sample", run, "--label", label, "--count", 4, "--out", out / "mp4" / label)

    config, network = load_experiment(run)[0].data, load_network("imagenet", None, torch.device("cpu"))
    real, test = (windows(out / "dicom" / name, config, network) for name in ("train", "test"))
    made = windows(out / "synthetic", config, network)
    few = np.random.default_rng(0).permutation(len(made[0]))[: len(real[0])]
    sets = {
        "real": real[:2],
        "synthetic, as many": (made[0][few], made[1][few]),
        "synthetic, all": made[:2],
        "both": (np.concatenate([real[0], made[0]]), np.concatenate([real[1], made[1]])),
    }
    table = Table(title=f"{len(test[0])} windows of {len(set(test[2]))} test patients, {arguments.minutes:g} minutes")
    for name in ("trained on", "windows", "abnormal", "AUROC", "95 % interval", "balanced accuracy"):
        table.add_column(name)
    for name, (features, abnormal) in sets.items():
        mean, deviation, weights = fit(features, abnormal)
        scores = F.pad((torch.from_numpy(test[0]) - mean) / deviation, (0, 1), value=1.0) @ weights
        units = [
            (scores[of & test[1]].numpy(), scores[of & ~test[1]].numpy())
            for of in (np.array([one == patient for one in test[2]]) for patient in sorted(set(test[2])))
        ]
        value, low, high = auroc_interval(units)
        right = [float(((scores > 0).numpy() == test[1])[test[1] == kind].mean()) for kind in (False, True)]
        table.add_row(
            name,
            str(len(features)),
            str(int(abnormal.sum())),
            f"{value:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{np.mean(right):.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
