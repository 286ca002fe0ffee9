"""The audit trail: who did what, when and from where. Rows are added and read, and never changed."""
