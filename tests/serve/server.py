"""An engine's own server, started on a folder and asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

STARTED_S = 300
"""A server that has not answered by then has failed."""

_HERE = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextmanager
def serving(folder: Path, log: Path, *, dtype: str = "float16") -> Iterator[str]:
    """Start vLLM's server on a model folder; its URL, until the end.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the last lines of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", "it", "--dtype", dtype),
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager"),
        *("--max-num-seqs", "2", "--max-model-len", "512"),
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, env={**os.environ, **_HERE}, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url, process, log)
            yield url
        finally:
            for way in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):  # it has ended by itself
                    os.killpg(process.pid, way)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < STARTED_S and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return
    last = "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-30:])
    raise RuntimeError(f"the server did not start:\n{last}")


def token_logprobs(url: str, ids: Sequence[int]) -> list[float]:
    """What the engine gives every token of a prompt after the first, natural logarithms."""
    body = {"model": "it", "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": 0}
    asked = urllib.request.Request(
        f"{url}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=300) as answer:
        (choice,) = json.load(answer)["choices"]
    return [
        float(entry[str(token)]["logprob"])
        for token, entry in zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)
    ]
