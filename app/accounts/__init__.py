"""Who is asking: people, their passwords, sign-in links, sessions and API tokens."""
