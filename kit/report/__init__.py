"""Run folder -> one HTML page: what happened, and what the adapter learnt. No torch; the page needs no network.

May import: support, options, models, memory, run.
"""
