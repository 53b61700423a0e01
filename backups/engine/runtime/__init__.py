"""What the engine runs on: durable writes, locks, child processes, and the context of a use case."""
