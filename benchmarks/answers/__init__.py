"""Which sentence moved an answer, on prompts where that is known."""
