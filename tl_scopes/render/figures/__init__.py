"""matplotlib figures, one file a kind."""
