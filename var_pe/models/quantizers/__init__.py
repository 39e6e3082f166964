"""Quantizers: latent maps to tokens and back."""
