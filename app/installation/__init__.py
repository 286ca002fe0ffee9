"""This installation: its identity, its keys and schema, who works on it now."""
