"""Gossamer makes a trained deep-learning model light, and proves it."""
