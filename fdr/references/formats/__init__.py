"""Statistics files: the moments and features that any tool of the field stores, recognised by content."""
