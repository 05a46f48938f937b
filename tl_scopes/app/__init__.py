"""The explorer `tl-scopes app`: a page in the browser, on this machine, for one person or a class.

Plain modules hold all that it knows: `settings`, `gate`, `request`, `conversation`, `worker`, `view_model`, `snippet`.
Only the script in `page/` needs Streamlit, which runs it again at every click.
"""
