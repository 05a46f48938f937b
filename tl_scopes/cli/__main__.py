"""`python -m tl_scopes.cli`: the same as the command `tl-scopes`, for launchers of several processes."""

from tl_scopes.cli.main import main

if __name__ == "__main__":
    main()
