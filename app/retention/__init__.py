"""Lets go of what has become old: logs, finished jobs, expired sign-ins, audit. Never of anything active."""
