"""A recipe: trainings in stages, from one file."""
