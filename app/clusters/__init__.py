"""The clusters that orgs may use, and what the worker last saw of them. Nothing here talks to a cluster."""
