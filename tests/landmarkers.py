"""Untrained models for tests, each built once a session and handed out as a copy."""

from __future__ import annotations

import copy
import functools

import torch

from distill.config import HeadConfig, ModelConfig
from distill.models.landmarker import Landmarker


def landmarker(backbone: str = "lcnet_050", size: int = 64, seed: int = 0, **head) -> Landmarker:
    """A Landmarker with weights drawn from `seed` and the head HeadConfig(width=16, **head)."""
    return copy.deepcopy(_built(backbone, size, seed, tuple(sorted(head.items()))))


@functools.cache
def _built(backbone: str, size: int, seed: int, head: tuple) -> Landmarker:
    torch.manual_seed(seed)
    return Landmarker(ModelConfig(backbone, input_size=size, head=HeadConfig(**{"width": 16} | dict(head))))
