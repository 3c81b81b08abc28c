"""Tests under schedules that are drawn, found and done again."""
