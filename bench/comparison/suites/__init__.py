"""Suites are measured on one model after the other: each kind is a module and one interface."""
