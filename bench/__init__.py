"""The harness has the command line, cells, records, statistics, tables and charts."""
