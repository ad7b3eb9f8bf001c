"""Talk to a run, an adapter or a model: python -m kit.chat runs/x

May import: support, options, models, prompt, backend, run.
"""
