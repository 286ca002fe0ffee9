"""Jobs: launching them, watching them, stopping them, and saying why they are as they are."""
