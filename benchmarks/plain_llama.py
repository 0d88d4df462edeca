"""llama.cpp's own server in a process that does nothing else: python -m benchmarks.plain_llama FILE THREADS.

Prints its address as JSON, and ends when standard input does.
"""

import json
import os
import sys

import xllamacpp


def main(file: str, threads: int) -> None:
    """Serve until standard input ends. All settings are llama.cpp's but the threads, one slot and the context."""
    output = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints on standard output
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.port, settings.n_ctx, settings.n_parallel = file, 0, 4096, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.n_gpu_layers = 0
    server = xllamacpp.Server(settings)
    os.write(output, json.dumps({"address": server.listening_address}).encode() + b"\n")
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
