"""What a configuration takes from the clips, and the conditions that make sense together."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from kinema.families.tgan import TGANConfig
from kinema.families.vgan import VGANConfig
from kinema.family import Facts, Family, FamilyConfig
from kinema.types import Conditions


@dataclass(frozen=True)
class Config(FamilyConfig):
    height: int | None = None
    width: int | None = 32

    def fitted(self, facts: Facts) -> Config:
        return self.completed(height=facts.height, width=facts.width)

    def build(self) -> Family:
        raise NotImplementedError


def test_open_fields_are_taken_from_the_clips() -> None:
    config = Config().fitted(Facts(8, 16, 32))
    assert config == Config(16, 32)
    assert config.filled("height", "width") == [16, 32]
    assert config.fitted(Facts(8, 16, 32)) == config


def test_what_is_set_must_be_what_the_clips_have() -> None:
    with pytest.raises(ValueError, match="width is 32, but the clips have 64: leave it open"):
        Config().fitted(Facts(8, 16, 64))


def test_open_fields_cannot_be_built_with() -> None:
    with pytest.raises(ValueError, match="height left open"):
        Config().filled("width", "height")


@pytest.mark.parametrize("config", [TGANConfig(), VGANConfig()])
def test_sizes_that_are_no_multiples_are_refused(config: FamilyConfig) -> None:
    with pytest.raises(ValueError, match="multiples of 16, not 16 and 24"):
        config.fitted(Facts(8, 16, 24)).build()


def test_known_and_mask_are_one_pair() -> None:
    family = TGANConfig(ngf=1, ngf_path=1, ndf=1).fitted(Facts(2, 16, 16)).build()
    with pytest.raises(ValueError, match="one pair"):
        family.refuse_unusable(Conditions(known=torch.zeros(1, 2, 3, 16, 16)))
    with pytest.raises(ValueError, match="one pair"):
        family.refuse_unusable(Conditions(mask=torch.ones(1, 2, 1, 16, 16, dtype=torch.bool)))
