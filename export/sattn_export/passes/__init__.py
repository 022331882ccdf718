"""Rewrites that turn any exported graph into the one graph a model file holds."""
