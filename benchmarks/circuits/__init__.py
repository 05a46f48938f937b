"""Which way of finding a circuit keeps most of what a model does, on tasks with clean and corrupted prompts."""
