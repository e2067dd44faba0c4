"""Token transformer: the distribution of a codec's tokens, sampled one by one or in a few masked steps.

Clips are the tokens of a trained codec (codecs/video_vae.py with `levels`), frame after frame and row after row.

- "autoregressive": each token given those before it, with a cache of keys and values (VideoGPT: Yan et al. 2021, arXiv
  2104.10157, section 3.2). The loss is the exact likelihood.
- "masked": masked tokens given the others, sampled in a few steps of which each keeps the most confident (MaskGIT:
  Chang et al. 2022, arXiv 2202.04200; MAGVIT: Yu et al. 2022, arXiv 2212.05199). The loss bounds the likelihood.

A caption in bytes of UTF-8, or a label, comes before the clip's tokens; the label's embedding is added to every token.
Autoregressive models learn half of the clips the other way round, captions after videos, so that they write them too.

- A token's embedding is a sum over its channels of one for each level: neighbours are alike from the first step, and
  rare tokens share what is known of their levels. The output has a logit for every token, as a sum of the channels'
  would take them to be independent.
- Longer clips are sampled in windows as long as a training clip. The last frames of one, half or more of its latents,
  are coded again as the beginning of the next: a codec codes a clip's first frame alone, and so the network finds what
  it knows from training. The decoder goes on from its state, without a seam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log, prod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from kinema.conditions.known import first_known, known_pixels
from kinema.conditions.labels import choose_labels
from kinema.config import MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES, check_ranges
from kinema.families.token_transformer.tokens import (
    BEGIN,
    END,
    decode_bytes,
    decode_masked,
    encode_bytes,
    filter_logits,
    gumbel,
    sample_mask,
    token_nll,
)
from kinema.family import Codec, LatentFamily, LatentFamilyConfig, Turn, encode_exactly
from kinema.nn.fsq import FSQ
from kinema.nn.rotary import grid
from kinema.nn.transformer import Transformer
from kinema.types import Batch, ClipSpec, Conditions, Progress, RandomStream, Seeds, TrainStep, no_progress

__all__ = ["TokenTransformer", "TokenTransformerConfig", "TokenTransformerSampling"]


@dataclass(frozen=True)
class TokenTransformerSampling:
    """How clips are sampled from a trained model."""

    temperature: float = 1.0
    """Divides the logits; below 1, likely tokens are sampled more often."""
    top_k: int = 0
    """Sample among so many of the likeliest tokens (0: all)."""
    top_p: float = 1.0
    """Sample among the fewest likeliest tokens that have this probability together (1: all)."""
    guidance: float = 1.0
    """Scale of classifier-free guidance by label or caption; 1 is none, and otherwise the network is called twice."""
    steps: int = 12
    """Steps in which a masked model samples a window."""
    confidence: float = 100.0
    """Temperature of the noise on a masked model's confidence, falling to 0: small things are lost where it is low."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            temperature=(1e-3, 1e3),
            top_k=(0, 2**24),
            top_p=(1e-6, 1.0),
            guidance=(0.0, 1000.0),
            steps=(1, 10_000),
            confidence=(0.0, 1e6),
        )


@dataclass(frozen=True)
class TokenTransformerConfig(LatentFamilyConfig):
    """The defaults are for a laptop: 6.6M weights with 1,000 tokens; hidden 128 and depth 6 make 1.3M."""

    about: ClassVar[str] = (
        "Tokens one by one, with likelihoods and captions: a codec of tokens first, then half an hour or more."
    )

    categories: int | None = None
    """Classes; taken from the labels, 0 without and where there are captions."""
    mode: Literal["autoregressive", "masked"] = "autoregressive"
    """Tokens one by one, or all at once in a few steps."""
    text: int = 0
    """Bytes of a caption that are read (0: no captions), in both modes; autoregressive models write them too."""
    hidden: int = 256
    """Dimensions of a token."""
    depth: int = 8
    """Blocks of the transformer."""
    heads: int = 4
    """Heads of attention."""
    dropout: float = 0.1
    """Share of labels or captions that are dropped in training, which guidance needs."""
    sampling: TokenTransformerSampling = TokenTransformerSampling()
    """How clips are sampled by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = (1, MOST_CHANNELS)
        check_ranges(
            self,
            categories=(0, MOST_CLASSES),
            text=(0, 2**16),
            hidden=channels,
            depth=(1, MOST_BLOCKS),
            heads=channels,
            dropout=(0.0, 0.999999),
        )

    def fitted(self, spec: ClipSpec) -> TokenTransformerConfig:
        """The configuration for clips of these sizes and classes; its codec must make tokens."""
        codec = self.codec_settings
        if codec is None or not codec.levels:
            raise ValueError(
                "token-transformer needs a codec that makes tokens: train one with kinema train video-vae --out RUN "
                "--family.levels 8 5 5 5, and name it with --family.codec RUN"
            )
        return super().fitted(spec).completed_from(categories=0 if self.text else len(spec.classes))

    def build(self) -> TokenTransformer:
        """The untrained model."""
        return TokenTransformer(self)

    @property
    def cells(self) -> tuple[int, int, int]:
        """L, h and w: the tokens of a training clip."""
        length, _, height, width = self.latents
        return length, height, width


class Network(nn.Module):
    """Tokens, labels and captions to logits; the label `categories` stands for none."""

    text_first: Tensor
    text_last: Tensor

    def __init__(self, config: TokenTransformerConfig, levels: Sequence[int]) -> None:
        super().__init__()
        (categories,), hidden = config.required("categories"), config.hidden
        self.fsq, self.causal = FSQ(levels), config.mode == "autoregressive"
        self.level = nn.Embedding(sum(levels), hidden)
        self.label = nn.Embedding(categories + 1, hidden)
        nn.init.normal_(self.level.weight, std=len(levels) ** -0.5)  # which add up to about 1
        self.places = nn.Parameter(0.02 * torch.randn(prod(config.cells), hidden))  # rotary ones only tell distances
        self.transformer = Transformer(hidden, config.depth, config.heads, causal="tokens" if self.causal else None)
        self.head = nn.Linear(hidden, self.fsq.vocabulary)
        if not self.causal:
            self.mask = nn.Parameter(torch.randn(hidden))
        caption = config.text + 2 if config.text else 0
        if caption:
            self.byte = nn.Embedding(BEGIN + 1, hidden)
        if caption and self.causal:
            self.byte_head = nn.Linear(hidden, END + 1)
        video = F.pad(1 + grid(*config.cells), (0, 0, 1, 0))  # [1 + N, 3], with the label's
        words = torch.arange(caption)[:, None].expand(-1, 3)
        # Positions go on along all axes, as in Qwen2-VL (arXiv 2409.12191), where text follows the largest before it
        self.register_buffer("text_first", torch.cat([words, caption + video]), persistent=False)
        self.register_buffer("text_last", torch.cat([video, 1 + max(config.cells) + words]), persistent=False)

    def embed(self, tokens: Tensor, label: Tensor, first: int = 0, mask: Tensor | None = None) -> Tensor:
        """Embeddings [B, n, D]: each channel's level, or the mask's, with the label's and places from `first` on."""
        counts = self.fsq.counts.flatten()
        x = self.level(self.fsq.digits(tokens) + counts.cumsum(0) - counts).sum(2)
        if mask is not None:
            x = torch.where(mask[..., None], self.mask, x)
        return x + self.label(label)[:, None] + self.places[first : first + tokens.shape[1]]

    def prefix(self, label: Int64[Tensor, " B"], text: Int64[Tensor, "B S"]) -> Float[Tensor, "B m D"]:
        """Embeddings of what comes before a video's tokens: the caption, where there are any, and the label."""
        words = [self.byte(text)] if text.shape[1] else []
        return torch.cat([*words, self.label(label)[:, None]], 1)

    def forward(
        self,
        tokens: Int64[Tensor, "B n"],
        label: Int64[Tensor, " B"],
        text: Int64[Tensor, "B S"],
        mask: Bool[Tensor, "B n"] | None = None,
        caption: bool = False,
    ) -> tuple[Float[Tensor, "B n V"], Float[Tensor, "B S2 W"] | None]:
        """The logits of videos' tokens: given those before each, or those that are not under the `mask`.

        With `caption`, the text comes after the video, which is then not conditioned on it, and its logits [B, S-1, W]
        are given too.
        """
        if caption:
            x = torch.cat([self.label(label)[:, None], self.embed(tokens, label), self.byte(text)], 1)[:, :-1]
            out, count = self.transformer(x, self.text_last[:-1]), tokens.shape[1]
            return self.head(out[:, :count]).float(), self.byte_head(out[:, count + 1 :]).float()
        x = torch.cat([self.prefix(label, text), self.embed(tokens, label, 0, mask)], 1)
        x = x[:, :-1] if self.causal else x  # nothing comes after the last
        out = self.transformer(x, self.text_first[: x.shape[1]])
        return self.head(out[:, -tokens.shape[1] :]).float(), None


class TokenTransformer(LatentFamily):
    """A transformer over a codec's tokens, which continues first frames, or masked, fills in unknown pixels."""

    streams = frozenset({"tokens"})
    codec: Codec
    generator: Network

    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__(config)
        if self.codec is None:
            raise ValueError("token-transformer needs a codec that makes tokens: name one with --family.codec RUN")
        self.config, self.sampling = config, config.sampling
        self.accepts = frozenset({"known", "mask", "text" if config.text else "label"})
        self.generator = Network(config, self.codec.levels)
        self.max_frames = config.frames if config.cells[0] == 1 else None  # one latent leaves none to go on from

    def unread_text(self, text: str) -> str:
        """The end of a caption beyond the bytes that are read."""
        return text.encode()[self.config.text :].decode(errors="ignore")

    def turns(self) -> Sequence[Turn]:
        """One: the likelihood of the tokens, or of the masked ones."""
        return (Turn("generator", self.generator, self._loss),)

    def _loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy of tokens in nats, with captions that of their bytes added; `bits` are a token's.

        A masked model's bits are an estimate of the bound, by the weights of `sample_mask`; its loss is unweighted.
        """
        config, network, generator = self.config, self.generator, step.generator
        tokens = network.fsq.tokens(self.latents_of(batch)).flatten(1)  # [B, N]
        if config.text and batch.conditions.text is None:
            raise ValueError(
                "the clips have no captions to read: give each one in metadata.csv, or make --family.text 0"
            )
        conditions = batch.conditions
        label, text = self._inputs(conditions.label if config.categories else None, conditions.text, len(tokens))
        none, empty = self._inputs(None, None, len(tokens))
        dropped = torch.rand(len(tokens), generator=generator, device=tokens.device) < config.dropout
        label, read = none.where(dropped, label), empty.where(dropped[:, None], text)
        if config.mode == "masked":
            mask, weight = sample_mask(len(tokens), tokens.shape[1], generator)
            logits, _ = network(tokens, label, read, mask)
            nll = (token_nll(logits, tokens) * mask).sum(1) / mask.sum(1)
            return nll.mean(), {"nats": nll.mean(), "bits": (weight * nll).mean() / log(2)}
        if not config.text:
            loss = token_nll(network(tokens, label, read)[0], tokens).mean()
            return loss, {"bits": loss / log(2)}
        if len(tokens) < 2:
            raise ValueError("captions are read in one clip and written in another: raise --train.batch to 2 or more")
        before, after = slice(len(tokens) // 2), slice(len(tokens) // 2, None)
        video, words = network(tokens[after], none[after], text[after], caption=True)
        assert words is not None
        logits = torch.cat([network(tokens[before], label[before], read[before])[0], video])
        counted = F.pad(text[after, 1:-1] != END, (1, 0), value=True)  # all bytes and one end
        of_video = token_nll(logits, tokens).mean()
        nll = token_nll(words, text[after, 1:])
        of_words = nll.masked_fill(~counted, 0).sum() / counted.sum()
        return of_video + of_words, {"bits": of_video / log(2), "caption_bits": of_words / log(2)}

    def _inputs(self, label: Tensor | None, text: Sequence[str] | None, clips: int) -> tuple[Tensor, Tensor]:
        """Labels [B] and captions [B, S] as the network reads them; None for no label and empty captions."""
        device, (categories,) = next(self.generator.parameters()).device, self.config.required("categories")
        label = torch.full((clips,), categories) if label is None else label
        return label.to(device), encode_bytes([""] * clips if text is None else text, self.config.text).to(device)

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the known frames as the codec decodes them, then new ones: of a latent at once, or of a window.

        An autoregressive model takes first frames that are complete groups of the codec. For a masked one a token is
        known where all the pixels of all its frames are; where only some are, they are ignored. Raises ValueError for
        frames, labels and captions that cannot be used, and for guidance without dropped conditions in training.
        """
        self.check_conditions(conditions)
        codec, fsq, (length, height, width) = self.codec, self.generator.fsq, self.config.cells
        inputs = self._conditioned(conditions, seeds)
        with self._exact():
            known = self._known(conditions, len(seeds))
        sample = self._autoregressive if self.config.mode == "autoregressive" else self._masked
        context = 1 + (length - length // 2 - 1) * codec.time  # frames
        tokens, last, begun, state, index = known[:, :0], torch.empty(0), 0, None, 0
        done, total = 0, frames

        def tick() -> None:
            progress(min(done, total), total)

        while True:
            if begun:
                with self._exact():
                    tokens = fsq.tokens(codec.encode(last)[0]).flatten(2)
            for new in sample(tokens, known[:, begun:], inputs, seeds.stream("tokens", index), len(seeds), tick):
                with self._exact():
                    chunk, state = codec.decode(fsq.codes(new.unflatten(2, (height, width))), state)
                last = (torch.cat([last, chunk], 1) if begun else chunk)[:, -context:]
                begun += new.shape[1]
                yield chunk[:, : total - done]
                done += chunk.shape[1]
                tick()
                if done >= total:
                    return
            index += 1

    def _exact(self) -> torch.autocast:
        """Float32 for all sampling: a token that rounding decides would change all those after it."""
        return torch.autocast(next(self.generator.parameters()).device.type, enabled=False)

    def _conditioned(self, conditions: Conditions, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Labels and captions to sample by; with guidance, the empty ones after them."""
        (categories,), clips = self.config.required("categories"), len(seeds)
        if conditions.text is not None and len(conditions.text) != clips:
            raise ValueError(f"{len(conditions.text)} captions for {clips} clips: give one a clip")
        device = next(self.generator.parameters()).device
        label = choose_labels(conditions, categories, seeds, "tokens", device)
        inputs = self._inputs(label, conditions.text, clips)
        if self.sampling.guidance == 1:
            return inputs
        if not self.config.dropout or not (categories or self.config.text):
            raise ValueError("guidance needs labels or captions, sometimes dropped in training: make it 1")
        label, text = (torch.cat(pair) for pair in zip(inputs, self._inputs(None, None, clips), strict=True))
        return label, text

    def _known(self, conditions: Conditions, clips: int) -> Int64[Tensor, "B l S"]:
        """The tokens of the known frames, -1 where they are unknown."""
        codec, (_, height, width) = self.codec, self.config.cells
        device, sizes = next(self.generator.parameters()).device, self.config.required("height", "width")
        known, mask = known_pixels("TokenTransformer", conditions, clips, *sizes)
        if self.config.mode == "autoregressive":
            count = first_known("TokenTransformer", conditions, clips, *sizes).shape[1]
            if count and (over := (count - 1) % codec.time):
                fewer, more = count - over, count - over + codec.time
                raise ValueError(f"{count} frames are not 1 and groups of {codec.time}: give {fewer} or {more}")
            known, mask = known[:, :count], mask[:, :count]
        if not known.shape[1]:
            return torch.empty(clips, 0, height * width, dtype=torch.int64, device=device)
        latents, share = codec.encode_known(known.to(device), mask.to(device))
        return self.generator.fsq.tokens(latents).where(share == 1, -1).flatten(2)

    def _filtered(self, logits: Float[Tensor, "K *n V"]) -> Float[Tensor, "B *n V"]:
        """Logits to sample from, with guidance (arXiv 2207.12598, eq. 6)."""
        sampling = self.sampling
        if sampling.guidance != 1:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + sampling.guidance * (conditional - unconditional)
        return filter_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p)

    def _autoregressive(
        self,
        tokens: Tensor,
        known: Tensor,
        inputs: tuple[Tensor, Tensor],
        noise: RandomStream,
        clips: int,
        tick: Callable[[], None],
    ) -> Iterator[Int64[Tensor, "B l S"]]:
        """Yield the rest of a window: its known tokens, then those of each latent of time as they are sampled."""
        network, (length, _, _) = self.generator, self.config.cells
        if known.shape[1]:
            yield (known := known[:, : length - tokens.shape[1]])
            tokens = torch.cat([tokens, known], 1)
        copies, cache, done = len(inputs[0]) // clips, None, 0
        prefix = network.prefix(*inputs)
        x = torch.cat([prefix, network.embed(tokens.flatten(1).repeat(copies, 1), inputs[0])], 1)
        for _ in range(length - tokens.shape[1]):
            sampled, shape = [], (tokens.shape[2], network.fsq.vocabulary)
            for draw in gumbel(noise.uniform(*shape, device=x.device)).unbind(1):
                with self._exact():
                    out, cache = network.transformer.extend(x, network.text_first[done : done + x.shape[1]], cache)
                    done += x.shape[1]
                    logits = self._filtered(network.head(out[:, -1]))
                    sampled.append((logits + draw).argmax(-1))
                    x = network.embed(sampled[-1].repeat(copies)[:, None], inputs[0], done - prefix.shape[1])
                tick()
            yield torch.stack(sampled, 1)[:, None]

    def _masked(
        self,
        tokens: Tensor,
        known: Tensor,
        inputs: tuple[Tensor, Tensor],
        noise: RandomStream,
        clips: int,
        tick: Callable[[], None],
    ) -> Iterator[Int64[Tensor, "B l S"]]:
        """Yield the rest of a window."""
        sampling, network, (length, _, _) = self.sampling, self.generator, self.config.cells
        begun = tokens.shape[1]
        tokens = torch.cat([tokens, known], 1)[:, :length]
        tokens = F.pad(tokens, (0, 0, 0, length - tokens.shape[1]), value=-1).flatten(1)  # [B, N]
        copies, device = len(inputs[0]) // clips, tokens.device

        def predict(tokens: Tensor, mask: Tensor) -> Tensor:
            tick()
            with self._exact():
                return self._filtered(network(tokens.repeat(copies, 1), *inputs, mask.repeat(copies, 1))[0])

        def uniform(*shape: int) -> Tensor:
            return noise.uniform(*shape, device=device)

        sampled = decode_masked(predict, tokens, uniform, sampling.steps, sampling.confidence)
        yield sampled.unflatten(1, (length, -1))[:, begun:]

    @torch.no_grad()
    def caption(self, frames: Float[Tensor, "B T 3 H W"]) -> tuple[str, ...]:
        """The captions of clips as long as in training, each byte the likeliest after those before it."""
        config, network = self.config, self.generator
        if not config.text or config.mode == "masked":
            raise ValueError("this model writes no captions: train one in autoregressive mode with --family.text 64")
        if frames.shape[1] != config.frames:
            raise ValueError(f"clips of {frames.shape[1]} frames cannot be read: give {config.frames}, as in training")
        with self._exact():
            tokens = network.fsq.tokens(encode_exactly(self.codec, frames)).flatten(1)
            none, text = self._inputs(None, None, len(frames))
            x = torch.cat([network.label(none)[:, None], network.embed(tokens, none), network.byte(text[:, :1])], 1)
            written, cache, done = text[:, :0], None, 0
            while written.shape[1] < config.text and not (written == END).any(1).all():
                out, cache = network.transformer.extend(x, network.text_last[done : done + x.shape[1]], cache)
                done += x.shape[1]
                written = torch.cat([written, network.byte_head(out[:, -1:]).argmax(-1)], 1)
                x = network.byte(written[:, -1:])
        return decode_bytes(written)
