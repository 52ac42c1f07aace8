"""The jobs behind the doors: train, evaluate, export. Functions that take values and return result objects."""
