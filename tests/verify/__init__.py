"""Verifying a bucket from outside."""
