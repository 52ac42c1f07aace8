"""An ablation: a grid of cells and seeds from one file, its trainings, its table."""
