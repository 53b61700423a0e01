"""Identity: who may do what, how people and programs sign in, and the audit of what they did."""
