"""Learning from a teacher: losses, methods, taps, and the objective they add up to."""
