"""Orgs, who is in them with which role, and the one place where a request is bound to an org."""
