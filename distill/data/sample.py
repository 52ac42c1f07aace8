"""Where the bundled sample lies: 600 rendered faces at 256 px in the challenge's layout (see sample/README.md)."""

from __future__ import annotations

from pathlib import Path

SAMPLE_ROOT = Path(__file__).resolve().parent / "sample"
