"""After the run: an adapter merged into a plain model, as a GGUF file, and the proof that it answers as the tuned one.

tuned, base -> job -> files (writing: shards, gguf_file) -> verifying (parity). Torch comes in through kit.backend only.

May import: support, options, models, prompt, data, backend, run.
"""
