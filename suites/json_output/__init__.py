"""Task suite ``json``: facts told in prose, to be written as JSON under a schema."""
