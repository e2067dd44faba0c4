"""Sampling of latent DiT: windows of a long clip, guidance, and the choice among candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kinema.conditions.encoder import EncodedConditions
from kinema.config import check_ranges
from kinema.diffusion.guidance import guided, in_interval
from kinema.diffusion.paths import Parameterisation, Path, Prediction, noised, prediction, target
from kinema.diffusion.solvers import Solver, solve
from kinema.diffusion.tasks import fully_known
from kinema.diffusion.times import staggered_times
from kinema.families.latent_dit.network import Network
from kinema.types import Progress, Seeds, no_progress

__all__ = ["MAX_CONTEXT_NOISE", "LatentDiTSampling", "WindowSampler"]

MAX_CONTEXT_NOISE = 0.2  # the highest noise level of context frames, in training and sampling
PARTLY = 0.6  # the noise level at which sampling begins of latents of which some frames are known
MOST_STEPS, GUIDANCE = 10_000, (-1000.0, 1000.0)  # of a window; scales of guidance
JUDGED = (0.6, 0.7, 0.8, 0.85)  # noise levels at which candidates are compared
WORST = 0.04  # share of a candidate's tokens that are its worst
IMPLAUSIBLE = 0.1  # weight of the error of the worst tokens beside what conditions do to errors


@dataclass(frozen=True)
class LatentDiTSampling:
    """How clips are sampled from a trained model."""

    steps: int = 24
    """Solver steps in each window."""
    solver: Solver = "dpm++"
    """The solver; heun calls the network twice a step."""
    guidance: float = 1.0
    """Scale of classifier-free guidance by text and label; 1 is none, and above it the network is called twice."""
    audio_guidance: float = 1.0
    """Scale of guidance by sound, added to the others; one more call above 1."""
    actions_guidance: float = 1.0
    """Scale of guidance by actions, likewise."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels that are guided, above the first and up to the second."""
    shift: float | None = None
    """How far noise levels are moved towards noise; None: as far as in training."""
    context_noise: float = 0.0
    """Noise level of the frames that a later window continues, up to 0.2; 0 leaves them as they are."""
    stagger: float = 0.0
    """Delay of each frame behind the one before, as a share of the steps: later frames see what earlier ones became,
    for as many more steps. Useful where `staggered_rate` was trained."""
    candidates: int = 1
    """Candidates for each window, of which the one that fits its conditions best is kept; each costs a clip's time."""
    overlap: float = 0.5
    """Share of a window that is context from the one before; the greater, the steadier and slower long clips are."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            steps=(1, MOST_STEPS),
            guidance=GUIDANCE,
            audio_guidance=GUIDANCE,
            actions_guidance=GUIDANCE,
            interval=(0.0, 1.0),
            shift=(1e-3, 1e4),
            context_noise=(0.0, MAX_CONTEXT_NOISE),
            stagger=(0.0, 1.0),
            candidates=(1, 1000),
            overlap=(0.01, 0.99),
        )
        if self.interval[0] >= self.interval[1]:
            raise ValueError(f"interval is {self.interval[0]:g} to {self.interval[1]:g}: it must rise")


@dataclass(frozen=True)
class WindowSampler:
    """Samples the latents of clips of any length, window by window.

    The first window is as long as a training clip. A later one begins with the last latents of the one before; where a
    codec codes the first frame alone, it has no latent of its own for a single frame and is shorter by that.
    """

    network: Network
    sampling: LatentDiTSampling
    path: Path
    parameterisation: Parameterisation
    shift: float  # of training
    time: int  # latents in time that share a token
    length: int  # latents in time of the first window
    later_length: int  # and of a later one
    single_first: bool  # whether the first latent is of a single frame
    bounded: bool  # whether latents are pixels in [-1, 1]

    def windows(
        self,
        length: int,
        known: Float[Tensor, "B l C h w"],
        share: Float[Tensor, "B l 1 h w"],
        encoded: Sequence[tuple[float, EncodedConditions]],
        unconditional: EncodedConditions | None,
        seeds: Seeds,
        progress: Progress = no_progress,
    ) -> Iterator[Float[Tensor, "B L C h w"]]:
        """Yield the latents of clips, `length` in time, as windows are ready.

        `share` is how much of each latent of `known` is known. `encoded` are the conditions, of scale 1, and after them
        those with one dropped, of that guidance's scale; `unconditional` has all dropped, to compare candidates by.
        """
        time, tokens = self.time, self.later_length // self.time
        overlap = time * min(max(1, round(self.sampling.overlap * tokens)), tokens - 1)
        step = max(1, self.later_length - overlap)
        count = 1 + max(0, -(-(length - self.length) // step))
        context, done = known[:, :0], 0
        for window in range(count):
            begin, size = (done - overlap, self.later_length) if done else (0, self.length)
            now = [(scale, part.slice(begin // time, size // time)) for scale, part in encoded]
            dropped = None if unconditional is None else unconditional.slice(begin // time, size // time)
            parts = context, _padded(known, begin, size), _padded(share, begin, size)

            def report(step: int, steps: int, window: int = window) -> None:
                nominal = self.sampling.steps  # staggered frames take more
                progress(window * nominal + step * nominal // steps, count * nominal)

            if dropped is None:
                latents = self._sample(*parts, now, seeds, window, report)
            else:
                latents = self._best_of_candidates(*parts, now, dropped, seeds, window, report)
            yield latents[:, done - begin :][:, : length - done]
            context, done = latents[:, -overlap:], begin + size

    def _best_of_candidates(
        self,
        context: Tensor,
        known: Tensor,
        share: Tensor,
        encoded: Sequence[tuple[float, EncodedConditions]],
        unconditional: EncodedConditions,
        seeds: Seeds,
        window: int,
        progress: Progress,
    ) -> Tensor:
        """Several candidates for each clip's window, of which the one with the best score is kept."""
        count, has_first = self.sampling.candidates, self.single_first and not context.shape[1]
        context, known, share = (x.repeat_interleave(count, 0) for x in (context, known, share))
        encoded = [(scale, part.repeat_interleave(count)) for scale, part in encoded]
        unconditional = unconditional.repeat_interleave(count)
        many = seeds.repeat_candidates(count)
        latents, clean = self._sample(context, known, share, encoded, many, window, progress), share == 1
        clean[:, : context.shape[1]] = True
        scores = self.score(latents, clean, [encoded[0][1], unconditional], has_first, seeds, window)
        best = scores.view(-1, count).argmax(1)
        return latents.unflatten(0, (-1, count))[torch.arange(len(best), device=best.device), best]

    def score(
        self,
        latents: Float[Tensor, "BK L C h w"],
        clean: Bool[Tensor, "BK L 1 h w"],
        encoded: Sequence[EncodedConditions],
        has_first: bool,
        seeds: Seeds,
        window: int = 0,
    ) -> Float[Tensor, " BK"]:
        """How well K candidates of each of B clips fit their conditions; more is better.

        The network's errors are compared under the same noises for all candidates of a clip, and their opposites. They
        should fall by a great share when conditions are given, as so a diffusion model judges how words and pictures
        fit (Li et al. 2023, arXiv 2303.16203; beside its unconditional error: Krojer et al. 2023, arXiv 2305.16397).
        They should rise nowhere, as where a circle is asked for and a square is there, and be great nowhere: a clip is
        wrong that is wrong in one place. `encoded` are all conditions, and none.
        """
        still, count, fall, errors = fully_known(clean, self.time), len(latents) // len(seeds), [], []
        for index, level in enumerate(JUDGED):
            noise = seeds.stream("latents", window, "judge", index).normal(*latents.shape[1:], device=latents.device)
            noise = noise.repeat_interleave(count, 0)
            levels = latents.new_full(latents.shape[:2], level).masked_fill(still, 0)
            for eps in (noise, -noise):
                x = torch.where(clean, latents, noised(self.path, latents, eps, levels))
                wanted = target(self.parameterisation, self.path, latents, eps, levels)
                outputs = torch.stack(self._outputs(x, clean, levels, encoded, has_first))
                error = self.network.patches.means((outputs - wanted).square().masked_fill(clean, 0))
                with_conditions, without = error.mean(2).clamp(min=1e-12)
                fall.append(1 - with_conditions / without)
                errors.append(error / without.view(-1, count).mean(1).repeat_interleave(count)[:, None])
        with_conditions, without = torch.stack(errors).mean(0)  # [BK, tokens] each, in shares of the clip's mean error

        def worst(x: Tensor) -> Tensor:
            return x.topk(max(1, round(WORST * x.shape[1]))).values.mean(1)

        return torch.stack(fall).mean(0) - worst(with_conditions - without) - IMPLAUSIBLE * worst(with_conditions)

    def _outputs(
        self, x: Tensor, clean: Tensor, levels: Tensor, encoded: Sequence[EncodedConditions], has_first: bool
    ) -> tuple[Tensor, ...]:
        """The network's outputs for the same clips under several conditions, run as one batch."""
        x, clean, levels = (part.repeat(len(encoded), *[1] * (part.ndim - 1)) for part in (x, clean, levels))
        conditions = EncodedConditions.concatenate(encoded)
        return self.network(x, clean, levels, conditions, has_first).chunk(len(encoded))

    def _sample(
        self,
        context: Tensor,
        known: Tensor,
        share: Tensor,
        encoded: Sequence[tuple[float, EncodedConditions]],
        seeds: Seeds,
        window: int,
        progress: Progress,
    ) -> Tensor:
        """A window [B, L, C, h, w] that begins with the latents of `context` and has the `known` ones, by `share`."""
        sampling, overlap = self.sampling, context.shape[1]
        clean, least = share == 1, share.flatten(2).amin(2)
        partly = fully_known(((least > 0) & (least < 1))[:, :, None, None, None], self.time)  # [B, L]
        partly[:, :overlap] = False
        has_first = self.single_first and not overlap
        given = torch.cat([context, known[:, overlap:]], 1)
        if not sampling.context_noise:
            clean = torch.cat([torch.ones_like(clean[:, :overlap]), clean[:, overlap:]], 1)
        complete = fully_known(clean, self.time)  # [B, L]
        sampled = ~complete
        sampled[:, :overlap] = False
        turn = sampled[:, :: self.time].cumsum(1).sub(1).clamp(min=0).repeat_interleave(self.time, 1)
        wait = (sampling.stagger * sampling.steps * turn).round().long()
        shift = self.shift if sampling.shift is None else sampling.shift
        levels = staggered_times(sampling.steps, shift, wait)  # [steps + 1, B, L]
        levels = torch.where(partly, levels.clamp(max=PARTLY), levels)
        levels[:, :, :overlap] = sampling.context_noise
        levels = levels.masked_fill(complete, 0)

        def denoise(x: Tensor, levels: Tensor) -> Prediction:
            x = torch.where(clean, given, x)
            used = encoded if in_interval(levels, sampling.interval).any() else encoded[:1]
            output, *dropped = self._outputs(x, clean, levels, [part for _, part in used], has_first)
            scaled = [(scale, other) for (scale, _), other in zip(used[1:], dropped, strict=True)]
            output = guided(output, scaled, levels, sampling.interval)
            return prediction(self.parameterisation, self.path, x, output, levels)

        def fresh(step: int) -> Tensor:
            return seeds.stream("latents", window, step).normal(*given.shape[1:], device=given.device)

        x = seeds.stream("latents", window).normal(*given.shape[1:], device=given.device)
        noisy = noised(self.path, context, x[:, :overlap], levels.new_full((), sampling.context_noise))
        x = torch.cat([noisy, x[:, overlap:]], 1)
        x = torch.where(partly[:, :, None, None, None], noised(self.path, given, x, levels[0]), x)
        x = solve(sampling.solver, denoise, x, levels, self.path, fresh, progress)
        x = torch.where(clean, given, torch.cat([context, x[:, overlap:]], 1))
        return x.clamp(-1, 1) if self.bounded else x


def _padded(x: Tensor, first: int, length: int) -> Tensor:
    """`length` places in time of `x` from `first` on, zeros where it has none."""
    x = x[:, first : first + length]
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], 1)
