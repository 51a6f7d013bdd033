"""What an id says about the row of a table that it reads; one file a way, each config in the slot `tables.NAME.ids`."""
