"""The harness: command line, cells, records, statistics, tables, charts."""
