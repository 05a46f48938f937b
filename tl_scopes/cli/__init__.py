"""The command line `tl-scopes`: one file a command."""
