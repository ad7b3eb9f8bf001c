"""A run: its folder, what is written into it, and the one reader of it.

May import: support, options, models, prompt, data, memory, backend.
"""
