"""Presets: an image with sensible limits, kept by an org's owners, versioned."""
