"""The figures that Prometheus asks for: what they are, where they are asked at, what the database says."""
