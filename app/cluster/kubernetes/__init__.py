"""A Kubernetes as a place where jobs run: objects made once, watched ever after, and removed by their labels."""
