"""What a configuration takes from the clips, and conditions that are one pair."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from kinema.families.tgan import TGANConfig
from kinema.families.vgan import VGANConfig
from kinema.family import Family, FamilyConfig
from kinema.types import ClipSpec, Conditions


@dataclass(frozen=True)
class Config(FamilyConfig):
    width: int | None = 32

    def build(self) -> Family:
        raise NotImplementedError


def test_open_fields_are_taken_from_the_clips() -> None:
    config = Config().fitted(ClipSpec(8, 16, 32))
    assert config == Config(8, 16, 32)
    assert config.required("frames", "height", "width") == [8, 16, 32]
    assert config.fitted(ClipSpec(8, 16, 32)) == config


def test_a_field_that_is_set_must_agree_with_the_clips() -> None:
    with pytest.raises(ValueError, match="width is 32, but the clips have 64: leave it open"):
        Config().fitted(ClipSpec(8, 16, 64))


def test_required_fields_cannot_be_open() -> None:
    with pytest.raises(ValueError, match="height left open"):
        Config().required("width", "height")


@pytest.mark.parametrize("config", [TGANConfig(), VGANConfig()])
def test_sizes_that_are_no_multiples_of_16_are_an_error(config: FamilyConfig) -> None:
    with pytest.raises(ValueError, match="multiples of 16, not 16 and 24"):
        config.fitted(ClipSpec(8, 16, 24)).build()


def test_known_and_mask_are_one_pair() -> None:
    family = TGANConfig(ngf=1, ngf_path=1, ndf=1).fitted(ClipSpec(2, 16, 16)).build()
    with pytest.raises(ValueError, match="one pair"):
        family.check_conditions(Conditions(known=torch.zeros(1, 2, 3, 16, 16)))
    with pytest.raises(ValueError, match="one pair"):
        family.check_conditions(Conditions(mask=torch.ones(1, 2, 1, 16, 16, dtype=torch.bool)))
