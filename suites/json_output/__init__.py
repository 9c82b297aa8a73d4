"""The task suite ``json`` tells facts in prose, to be written as JSON under a schema."""
