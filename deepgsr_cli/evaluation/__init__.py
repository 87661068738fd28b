"""Figures of quality that all tasks share."""
