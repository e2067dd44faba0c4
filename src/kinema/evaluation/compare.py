"""Differences of sources from the first, clip by clip where clips are paired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from kinema.evaluation.evaluate import Evaluation
from kinema.evaluation.measure import feature_distances
from kinema.metrics.protocol import Difference, Protocol, Result
from kinema.metrics.statistics import half_interval, paired_test

__all__ = ["check_same_protocol", "differences"]


def check_same_protocol(results: Sequence[Result]) -> None:
    """Raise ValueError, naming what differs, where results were measured by different protocols."""
    if not results:
        raise ValueError("there are no results in these files: make them with kinema evaluate --out")
    first = results[0]
    for other in results[1:]:
        ours, theirs = first.protocol, other.protocol
        if ours.hash != theirs.hash:
            name = next(f.name for f in fields(Protocol) if getattr(ours, f.name) != getattr(theirs, f.name))
            raise ValueError(
                f"{first.source} and {other.source} were measured by different protocols ({name}: "
                f"{getattr(ours, name)} and {getattr(theirs, name)}): measure both by one"
            )


def differences(found: Sequence[Evaluation], reference: Evaluation | None) -> list[Difference]:
    """Each source less the first one, by every measure: distances by random halves, means by pairs of clips.

    Means are compared where clips are paired: of the same seeds and conditions, or predictions of the same files.
    """
    first, *others = found
    network, rows = first.result.protocol.features["name"], list[Difference]()
    for other in others:
        names = other.result.source, first.result.source
        if reference is not None:
            sets = [one.rows for one in (other, first, reference)]
            for distance in feature_distances(network, reference.rows.features):
                if any(math.isnan(one.result.numbers[distance.names[0]].value) for one in (first, other)):
                    continue

                def difference(x: np.ndarray, y: np.ndarray, real: np.ndarray, of=distance.of) -> float | np.ndarray:
                    return of(real, x) - of(real, y)

                # both distances are to the same half of the reference, whose noise cancels
                tables, groups = [one.features for one in sets], [one.groups for one in sets]
                ends = np.stack([np.atleast_1d(end) for end in half_interval(difference, tables, groups)], 1).tolist()
                for name, (value, low, high) in zip(distance.names, ends, strict=True):
                    rows.append(Difference(name, *names, value, low, high, math.nan))
        if first.result.kind == other.result.kind == "generated" or first.result.protocol.paired:
            for name, values in other.rows.per_clip.items():
                pairs = np.stack([values, first.rows.per_clip.get(name, np.full(len(values), np.nan))])
                there = np.isfinite(pairs).all(0)
                groups = first.rows.groups[there]
                if len(np.unique(groups)) >= 2 and np.ptp(pairs[:, there]) > 0:
                    rows.append(Difference(name, *names, *paired_test(*pairs[:, there], groups=groups)))
    return rows
