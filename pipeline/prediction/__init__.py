"""Prediction: sliding window, and averages over draws from a posterior."""
