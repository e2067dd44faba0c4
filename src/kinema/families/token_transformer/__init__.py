"""Token transformer: the distribution of a codec's tokens, sampled one by one or in a few masked steps."""

from kinema.families.token_transformer.model import (
    TokenTransformer,
    TokenTransformerConfig,
    TokenTransformerSampling,
)

__all__ = ["TokenTransformer", "TokenTransformerConfig", "TokenTransformerSampling"]
