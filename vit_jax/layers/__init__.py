"""Layers: one idea a file. They know nothing of whole models."""
