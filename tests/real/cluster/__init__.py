"""A real one-node Kubernetes for tests and for play: compiled once, started in seconds, ended without a trace.

Nothing of the portal is imported here, and nothing of pytest: tests/real/plugin.py and conftest.py do that.
"""
