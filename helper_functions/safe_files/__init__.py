"""Reading files that strangers wrote."""
