"""Landmarker = timm backbone + head; codec, frozen teacher, and the one model file format."""
