"""Codecs, which encode video to latents or tokens and decode it."""
