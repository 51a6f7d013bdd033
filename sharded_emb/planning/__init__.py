"""Where to put tables, and what that costs, found from descriptions of tables and cluster alone."""
