"""llama.cpp's own server out of the package xllamacpp, in a process of its own: what it cannot read, it ends with.

python llama_cpp_process.py FILE.gguf PORT CONTEXT_TOKENS
"""

import sys
import time


def main(file: str, port: str, context_tokens: str) -> None:
    import xllamacpp  # type: ignore[import-not-found, unused-ignore] # where it is not installed this is not run

    options = xllamacpp.CommonParams()
    options.model.path = file
    options.n_ctx = int(context_tokens)
    options.n_parallel = 1
    options.hostnames = ["127.0.0.1"]
    options.port = int(port)
    options.use_jinja = True
    options.warmup = False
    server = xllamacpp.Server(options)  # answers for as long as it lives
    while server:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
