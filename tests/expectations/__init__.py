"""A folder per rule: rows (or days) that keep it and rows that break it."""
