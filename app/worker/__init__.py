"""The loop that makes wishes true and writes back what it sees. The only importer of cluster implementations."""
