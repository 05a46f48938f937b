"""Every decoder-only text architecture that the installed transformer-lens knows, tiny and random, held
against an untouched Hugging Face copy."""
