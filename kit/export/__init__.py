"""After the run: an adapter merged into a plain model, as a GGUF file, and the proof that it answers as the tuned one.

adapters, base -> writing (shards, gguf) -> parity. Torch comes in through kit.backend.merging and comparing only.
"""
