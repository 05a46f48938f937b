"""Web pages and notebook outputs that fetch nothing."""
