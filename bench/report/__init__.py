"""Tables, charts and reports are functions of records."""
