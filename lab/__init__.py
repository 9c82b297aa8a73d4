"""What makes the project's own evidence; not part of the package."""
