"""The cluster `this-machine`: jobs are processes of the portal's user, each watched by a supervisor of its own."""

from app.cluster.local.cluster import LocalCluster
from app.cluster.local.gpus import simulated_gpus
from app.cluster.local.settings import LocalSettings

__all__ = ["LocalCluster", "LocalSettings", "simulated_gpus"]
