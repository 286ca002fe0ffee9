"""`make bench`: the figures that the portal promises, measured in one run beside a floor of the same run."""
