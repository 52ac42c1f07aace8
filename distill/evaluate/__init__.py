"""Predict a labelled set with a model, measure it, draw it."""
