"""Tables, charts and reports: functions of records."""
