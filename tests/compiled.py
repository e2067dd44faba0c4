"""Train a tiny instance eagerly and compiled, and print both losses as JSON: compiled.py INSTANCE DEVICE CODEC.

A process of its own, as torch.compile cannot trace the shape checks that are made under pytest.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch
from test_contract import INSTANCES, untrained

from kinema.runtime.device import Runtime

name, device, codec = sys.argv[1:4]
instance = INSTANCES[name]
if instance.levels is not None:
    instance = replace(instance, settings=instance.settings | {"codec": codec})
found = {}
for compiled in (False, True):
    trainer = untrained(instance, Runtime(torch.device(device), torch.float32), compile=compiled)
    for _ in range(2):
        trainer.advance()
    assert trainer.compiled == compiled, "it fell back to eager"
    found["compiled" if compiled else "eager"] = trainer.losses()
print(json.dumps(found))
