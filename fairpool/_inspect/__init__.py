"""Rank 4, inspection: what the rooms below do.

dump:   what a pool is doing, as text; reads, and changes nothing
points: where the events of an `Observer` happen; replaces functions while one is attached
"""
