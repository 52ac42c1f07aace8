"""A teacher that cannot change by accident."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models.landmarker import Landmarker, Prediction, to_input


class FrozenTeacher(nn.Module):
    """Always in eval mode, never with gradients; sees the student's very view, at its own size and normalisation."""

    def __init__(self, model: Landmarker):
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Does nothing: batch statistics of a teacher must not move, whoever calls train() on the whole."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Prediction:
        """(B, s, s, 3) uint8, the batch that the student sees -> the teacher's prediction, in its own input's
        pixels."""
        return self.model(to_input(images, self.model.size))
