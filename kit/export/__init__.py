"""After the run: an adapter merged into a plain model, as a GGUF file, and the proof that it answers as the tuned one.

tuned_model, base -> job -> model_folder (writing: shards, gguf_file) -> verifying (parity).

May import: support, options, models, prompt, data, backend, run.
"""
