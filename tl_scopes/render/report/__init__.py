"""A faithfulness card as page, Markdown, terminal text and figures: one set of words and tables for all."""
