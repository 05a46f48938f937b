"""A TransformerLens model behind one view: its sites, hooks, prompts and last step."""
