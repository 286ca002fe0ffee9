"""`make soak`: very many short jobs through the real worker over a cluster in memory, with kills and faults by seed."""
