"""Token transformer: the distribution of a codec's tokens, drawn one by one or many at once.

Clips are the tokens of a trained codec (families/video_vae.py with `levels`), frame after frame and row after row.

- "autoregressive": each token given those before it, with a cache of keys and values (VideoGPT: Yan et al. 2021, arXiv
  2104.10157, section 3.2). The loss is the exact likelihood.
- "masked": hidden tokens given the others, drawn in a few steps of which each keeps what it is most confident of
  (MaskGIT: Chang et al. 2022, arXiv 2202.04200; MAGVIT: Yu et al. 2022, arXiv 2212.05199). The likelihood is bounded.

What a clip is to show comes before it: a caption in bytes of UTF-8, or a label, which every token is told again.
Autoregressive models learn half of the clips the other way round, captions after videos, so that they write them too.

- A token's embedding is a sum over its channels of one for each level: neighbours are alike from the first step, and
  tokens that are rarely seen share what is known of their levels. The output has a logit for every token, as a sum of
  the channels' would take them to be independent.
- Longer clips are drawn in windows as long as a training clip. The last frames of one, half or more of its latents, are
  coded anew as the beginning of the next: a codec codes a clip's first frame alone, and so the network finds what it
  knows from training. The decoder goes on from its state, without a seam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log, prod
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from kinema.families.video_vae import VideoVAE, VideoVAEConfig
from kinema.family import Facts, Family, FamilyConfig, Turn
from kinema.nn.fsq import FSQ
from kinema.nn.known import first_known, known_pixels
from kinema.nn.labels import labels
from kinema.nn.rotary import grid
from kinema.nn.transformer import Transformer
from kinema.tokens import BEGIN, END, filled_in, gumbel, hide, narrowed, nats, read, spelled
from kinema.types import Batch, Conditions, Noise

__all__ = ["TokenTransformer", "TokenTransformerConfig", "TokenTransformerSampling"]


@dataclass(frozen=True)
class TokenTransformerSampling:
    """How clips are drawn from a trained model."""

    temperature: float = 1.0
    """What logits are divided by; below 1, likely tokens are drawn more often."""
    top_k: int = 0
    """How many of the likeliest tokens may be drawn (0: all)."""
    top_p: float = 1.0
    """Only the fewest likeliest tokens that have this probability together may be drawn (1: all)."""
    guidance: float = 1.0
    """Scale of classifier-free guidance by label or caption; 1 is none, and otherwise the network works twice."""
    steps: int = 12
    """In which a masked model draws a window."""
    confidence: float = 100.0
    """Temperature of the noise on a masked model's confidence, falling to 0: small things are lost where it is low."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("token-transformer: temperature must be more than 0, top_k 0 or more and top_p in (0, 1]")
        if self.steps < 1 or min(self.confidence, self.guidance) < 0:
            raise ValueError("token-transformer: steps must be at least 1, confidence and guidance not negative")


@dataclass(frozen=True)
class TokenTransformerConfig(FamilyConfig):
    """The defaults are for a laptop: 6.6M weights with 1,000 tokens; hidden 128 and depth 6 make 1.3M."""

    frames: int | None = None
    """T of a training clip, and of a window of a longer one; taken from the clips."""
    height: int | None = None
    """Pixels; taken from the clips."""
    width: int | None = None
    """Pixels; taken from the clips."""
    categories: int | None = None
    """Classes that it is told; taken from the labels, 0 without and where captions say more."""
    codec: str | None = None
    """A run of video-vae with tokens: kinema train video-vae --family.levels 8 5 5 5."""
    coded: Annotated[VideoVAEConfig | None, tyro.conf.Suppress] = None
    """The codec's configuration; taken from its run."""
    mode: Literal["autoregressive", "masked"] = "autoregressive"
    """Tokens one by one, or all at once in a few steps."""
    text: int = 0
    """Bytes of a caption, of which more are cut off (0: no captions): read by both modes, autoregressive writes too."""
    hidden: int = 256
    """Dimensions of a token."""
    depth: int = 8
    """Blocks of the transformer."""
    heads: int = 4
    """Of attention."""
    dropout: float = 0.1
    """Share of labels or captions that are left out in training, which guidance needs."""
    sampling: TokenTransformerSampling = TokenTransformerSampling()
    """How clips are drawn, where a caller does not say."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.depth, self.heads) < 1 or self.text < 0 or not 0 <= self.dropout < 1:
            raise ValueError("token-transformer: hidden, depth, heads are 1 or more, text 0 or more, dropout in [0, 1)")

    def fitted(self, facts: Facts) -> TokenTransformerConfig:
        """The configuration for clips of these sizes and classes, with that of the codec, which must make tokens."""
        coded = self.coded
        if coded is None and self.codec is not None:
            coded = replace(VideoVAEConfig.of(self.codec, facts), adversarial=0.0)  # its critic has done its work
        if coded is None or not coded.levels:
            raise ValueError(
                "token-transformer needs a codec that makes tokens: train one with kinema train video-vae --out RUN "
                "--family.levels 8 5 5 5, and name it with --family.codec RUN"
            )
        categories = 0 if self.text else len(facts.classes)
        sizes = {"frames": facts.frames, "height": facts.height, "width": facts.width}
        return replace(self, coded=coded.fitted(facts)).completed(**sizes, categories=categories)

    def build(self) -> TokenTransformer:
        """The untrained model."""
        return TokenTransformer(self)

    @property
    def cells(self) -> tuple[int, int, int]:
        """L, h and w: the tokens of a training clip."""
        frames, height, width = self.filled("frames", "height", "width")
        assert self.coded is not None, "a fitted configuration has a codec's"
        return 1 + (frames - 1) // self.coded.time, height // self.coded.space, width // self.coded.space


class Network(nn.Module):
    """Tokens, labels and captions to logits; a label of `categories` says that none is told."""

    reading: Tensor
    writing: Tensor

    def __init__(self, config: TokenTransformerConfig, levels: Sequence[int]) -> None:
        super().__init__()
        (categories,), hidden = config.filled("categories"), config.hidden
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
            self.spell = nn.Linear(hidden, END + 1)
        video = F.pad(1 + grid(*config.cells), (0, 0, 1, 0))  # [1 + N, 3], with the label's
        words = torch.arange(caption)[:, None].expand(-1, 3)
        # Positions go on along all axes, as in Qwen2-VL (arXiv 2409.12191), where text follows the largest before it
        self.register_buffer("reading", torch.cat([words, caption + video]), persistent=False)
        self.register_buffer("writing", torch.cat([video, 1 + max(config.cells) + words]), persistent=False)

    def embedded(self, tokens: Tensor, label: Tensor, first: int = 0, hidden: Tensor | None = None) -> Tensor:
        """The sum [B, n, D] of each channel's level, or else of a mask, of the label and the places from `first` on."""
        counts = self.fsq.counts.flatten()
        x = self.level(self.fsq.digits(tokens) + counts.cumsum(0) - counts).sum(2)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.mask, x)
        return x + self.label(label)[:, None] + self.places[first : first + tokens.shape[1]]

    def opening(self, label: Int64[Tensor, " B"], text: Int64[Tensor, "B S"]) -> Float[Tensor, "B m D"]:
        """What comes before the tokens of a video: its caption, where there are any, and its label."""
        words = [self.byte(text)] if text.shape[1] else []
        return torch.cat([*words, self.label(label)[:, None]], 1)

    def forward(
        self,
        tokens: Int64[Tensor, "B n"],
        label: Int64[Tensor, " B"],
        text: Int64[Tensor, "B S"],
        hidden: Bool[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n V"]:
        """The logits of the first tokens of videos: given those before each, or those that are not `hidden`."""
        x = torch.cat([self.opening(label, text), self.embedded(tokens, label, 0, hidden)], 1)
        x = x[:, :-1] if self.causal else x  # nothing comes after the last
        out = self.transformer(x, self.reading[: x.shape[1]])
        return self.head(out[:, -tokens.shape[1] :]).float()

    def captioned(self, tokens: Int64[Tensor, "B N"], text: Int64[Tensor, "B S"]) -> tuple[Tensor, Tensor]:
        """The logits of whole videos without a label [B, N, V], and of their captions after them [B, S-1, W]."""
        none = torch.full_like(tokens[:, 0], self.label.num_embeddings - 1)
        x = torch.cat([self.label(none)[:, None], self.embedded(tokens, none), self.byte(text)], 1)[:, :-1]
        out, count = self.transformer(x, self.writing[:-1]), tokens.shape[1]
        return self.head(out[:, :count]).float(), self.spell(out[:, count + 1 :]).float()


class Generator(nn.Module):
    """The network and the codec, which stays as it was trained."""

    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__()
        assert config.coded is not None
        self.codec, self.network = config.coded.build(), Network(config, config.coded.levels)


class TokenTransformer(Family):
    """A transformer over a codec's tokens, which goes on from first frames, or masked, fills in what is not given."""

    streams = frozenset({"tokens"})
    generator: Generator

    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__()
        self.config, self.sampling = config, config.sampling
        self.accepts = frozenset({"known", "mask", "text" if config.text else "label"})
        self.generator = Generator(config)
        self.longest = config.frames if config.cells[0] == 1 else None  # one latent leaves none to go on from

    @property
    def codec(self) -> VideoVAE:
        """The trained codec."""
        return self.generator.codec

    def begin(self) -> None:
        """Take the weights of the trained codec."""
        if self.config.codec is not None:
            self.codec.load_weights(self.config.codec)

    def turns(self) -> Sequence[Turn]:
        """One: the likelihood of the tokens, or what is masked of them; the codec stays as it is."""
        return (Turn("generator", self.generator.network, self._loss),)

    def _loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy of tokens in nats, with captions that of their bytes added; `bits` are a token's.

        A masked model's are an estimate of the bound, by the weights of `hide`, and its loss is without them.
        """
        config, network, codec = self.config, self.generator.network, self.codec.eval()
        with torch.no_grad():
            latents = codec.encode(batch.frames)[0] if batch.latents is None else batch.latents
        tokens = network.fsq.tokens(latents).flatten(1)  # [B, N]
        if config.text and batch.given.text is None:
            raise ValueError(
                "the clips have no captions to read: give each one in metadata.csv, or make --family.text 0"
            )
        label, text = self._told(batch.given.label if config.categories else None, batch.given.text, len(tokens))
        none, empty = self._told(None, None, len(tokens))
        left_out = torch.rand(len(tokens), generator=generator, device=tokens.device) < config.dropout
        label, told = none.where(left_out, label), empty.where(left_out[:, None], text)
        if config.mode == "masked":
            hidden, weight = hide(len(tokens), tokens.shape[1], generator)
            each = (nats(network(tokens, label, told, hidden), tokens) * hidden).sum(1) / hidden.sum(1)
            return each.mean(), {"nats": each.mean(), "bits": (weight * each).mean() / log(2)}
        if not config.text:
            loss = nats(network(tokens, label, told), tokens).mean()
            return loss, {"bits": loss / log(2)}
        if len(tokens) < 2:
            raise ValueError("captions are read in one clip and written in another: raise --train.batch to 2 or more")
        before, after = slice(len(tokens) // 2), slice(len(tokens) // 2, None)
        video, words = network.captioned(tokens[after], text[after])
        drawn = torch.cat([network(tokens[before], label[before], told[before]), video])
        counted = F.pad(text[after, 1:-1] != END, (1, 0), value=True)  # all bytes and one end
        of_video = nats(drawn, tokens).mean()
        of_words = nats(words, text[after, 1:])[counted].mean()
        return of_video + of_words, {"bits": of_video / log(2), "caption_bits": of_words / log(2)}

    def _told(self, label: Tensor | None, text: Sequence[str] | None, clips: int) -> tuple[Tensor, Tensor]:
        """Labels [B] and captions [B, S] as the network reads them; None says nothing."""
        device, (categories,) = next(self.generator.parameters()).device, self.config.filled("categories")
        label = torch.full((clips,), categories) if label is None else label
        return label.to(device), spelled([""] * clips if text is None else text, self.config.text).to(device)

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the given frames as the codec gives them back, then those drawn: of a latent at once, or of a window.

        An autoregressive model takes first frames that are whole groups of the codec. For a masked one a token is given
        where all the pixels of all the frames that it stands for are; where only some are, none count. ValueErrors say
        which frames, labels and captions cannot be used, and where there is guidance that it did not learn.
        """
        self.refuse_unusable(given)
        codec, fsq, (length, height, width) = self.codec, self.generator.network.fsq, self.config.cells
        told = self._asked(given, noise)
        with self._exact():
            known = self._known(given, len(noise))
        draw = self._one_by_one if self.config.mode == "autoregressive" else self._at_once
        context = 1 + (length - length // 2 - 1) * codec.time  # frames
        window, last, begun, state = known[:, :0], torch.empty(0), 0, None
        while True:
            if begun:
                with self._exact():
                    window = fsq.tokens(codec.encode(last)[0]).flatten(2)
            for tokens in draw(window, known[:, begun:], told, noise):
                with self._exact():
                    chunk, state = codec.decode(fsq.codes(tokens.unflatten(2, (height, width))), state)
                last = (torch.cat([last, chunk], 1) if begun else chunk)[:, -context:]
                begun += tokens.shape[1]
                yield chunk[:, :frames]
                frames -= chunk.shape[1]
                if frames <= 0:
                    return

    def _exact(self) -> torch.autocast:
        """Float32 for all that sampling does: a token that rounding decides would change all those after it."""
        return torch.autocast(next(self.generator.parameters()).device.type, enabled=False)

    def _asked(self, given: Conditions, noise: Noise) -> tuple[Tensor, Tensor]:
        """Labels and captions to be drawn; with guidance, those that say nothing after them."""
        (categories,), clips = self.config.filled("categories"), len(noise)
        if given.text is not None and len(given.text) != clips:
            raise ValueError(f"{len(given.text)} captions for {clips} clips: give one a clip")
        label = labels(given, categories, noise, "tokens", next(self.generator.parameters()).device)
        told = self._told(label, given.text, clips)
        if self.sampling.guidance == 1:
            return told
        if not self.config.dropout or not (categories or self.config.text):
            raise ValueError("guidance needs labels or captions, sometimes left out in training: make it 1")
        label, text = (torch.cat(pair) for pair in zip(told, self._told(None, None, clips), strict=True))
        return label, text

    def _known(self, given: Conditions, clips: int) -> Int64[Tensor, "B l S"]:
        """The tokens of the given frames, -1 where they are not given."""
        codec, (_, height, width) = self.codec, self.config.cells
        device, sizes = next(self.generator.parameters()).device, self.config.filled("height", "width")
        known, mask = known_pixels("TokenTransformer", given, clips, *sizes)
        if self.config.mode == "autoregressive":
            count = first_known("TokenTransformer", given, clips, *sizes).shape[1]
            if count and (over := (count - 1) % codec.time):
                fewer, more = count - over, count - over + codec.time
                raise ValueError(f"{count} frames are not 1 and groups of {codec.time}: give {fewer} or {more}")
            known, mask = known[:, :count], mask[:, :count]
        if not known.shape[1]:
            return torch.empty(clips, 0, height * width, dtype=torch.int64, device=device)
        latents, share = codec.given(known.to(device), mask.to(device))
        return self.generator.network.fsq.tokens(latents).where(share == 1, -1).flatten(2)

    def _narrowed(self, logits: Float[Tensor, "K *n V"]) -> Float[Tensor, "B *n V"]:
        """Logits that tokens are drawn by: with guidance, away from those told nothing (arXiv 2207.12598, eq. 6)."""
        sampling = self.sampling
        if sampling.guidance != 1:
            told, free = logits.chunk(2)
            logits = free + sampling.guidance * (told - free)
        return narrowed(logits, sampling.temperature, sampling.top_k, sampling.top_p)

    def _one_by_one(
        self, window: Tensor, known: Tensor, told: tuple[Tensor, Tensor], noise: Noise
    ) -> Iterator[Int64[Tensor, "B l S"]]:
        """Yield what follows in the window: the tokens that are given, then those of each latent of time as drawn."""
        network, (length, _, _) = self.generator.network, self.config.cells
        if known.shape[1]:
            yield (known := known[:, : length - window.shape[1]])
            window = torch.cat([window, known], 1)
        copies, cache, done = len(told[0]) // len(noise), None, 0
        opening = network.opening(*told)
        x = torch.cat([opening, network.embedded(window.flatten(1).repeat(copies, 1), told[0])], 1)
        for _ in range(length - window.shape[1]):
            drawn, shape = [], (window.shape[2], network.fsq.vocabulary)
            for luck in gumbel(noise.uniform("tokens", *shape, device=x.device)).unbind(1):
                with self._exact():
                    out, cache = network.transformer.extend(x, network.reading[done : done + x.shape[1]], cache)
                    done += x.shape[1]
                    logits = self._narrowed(network.head(out[:, -1]))
                    drawn.append((logits + luck).argmax(-1))
                    x = network.embedded(drawn[-1].repeat(copies)[:, None], told[0], done - opening.shape[1])
            yield torch.stack(drawn, 1)[:, None]

    def _at_once(
        self, window: Tensor, known: Tensor, told: tuple[Tensor, Tensor], noise: Noise
    ) -> Iterator[Int64[Tensor, "B l S"]]:
        """Yield all that follows in the window."""
        sampling, network, (length, _, _) = self.sampling, self.generator.network, self.config.cells
        tokens = torch.cat([window, known], 1)[:, :length]
        tokens = F.pad(tokens, (0, 0, 0, length - tokens.shape[1]), value=-1).flatten(1)  # [B, N]
        copies, uniform = len(told[0]) // len(noise), partial(noise.uniform, "tokens", device=tokens.device)

        def predict(tokens: Tensor, hidden: Tensor) -> Tensor:
            with self._exact():
                return self._narrowed(network(tokens.repeat(copies, 1), *told, hidden.repeat(copies, 1)))

        drawn = filled_in(predict, tokens, uniform, sampling.steps, sampling.confidence)
        yield drawn.unflatten(1, (length, -1))[:, window.shape[1] :]

    @torch.no_grad()
    def caption(self, frames: Float[Tensor, "B T 3 H W"]) -> tuple[str, ...]:
        """The captions of clips as long as in training, each byte the likeliest after those before it."""
        config, network = self.config, self.generator.network
        if not config.text or config.mode == "masked":
            raise ValueError("this model writes no captions: train one in autoregressive mode with --family.text 64")
        if frames.shape[1] != config.frames:
            raise ValueError(f"clips of {frames.shape[1]} frames cannot be read: give {config.frames}, as in training")
        with self._exact():
            tokens = network.fsq.tokens(self.codec.encode(frames)[0]).flatten(1)
            none, text = self._told(None, None, len(frames))
            x = torch.cat([network.label(none)[:, None], network.embedded(tokens, none), network.byte(text[:, :1])], 1)
            written, cache, done = text[:, :0], None, 0
            while written.shape[1] < config.text and not (written == END).any(1).all():
                out, cache = network.transformer.extend(x, network.writing[done : done + x.shape[1]], cache)
                done += x.shape[1]
                written = torch.cat([written, network.spell(out[:, -1:]).argmax(-1)], 1)
                x = network.byte(written[:, -1:])
        return read(written)
