"""Prediction: sliding window, averages over draws from a posterior, and how these are read."""
