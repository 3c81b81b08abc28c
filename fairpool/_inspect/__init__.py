"""Rank 4, inspection: reads the rooms below, and changes nothing."""
