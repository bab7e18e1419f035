"""Shared numerics: one topic a file, each with oracle tests in ``tests/tools``."""
