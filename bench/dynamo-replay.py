"""NVIDIA Dynamo's own replay of the Mooncake traces in the eight cells of docs/routing-quality.md, to compare with.

    python3 -m venv VENV
    VENV/bin/pip install --no-deps ai-dynamo ai-dynamo-runtime msgspec pyzmq aiohttp tqdm zstandard prometheus-client transformers kubernetes \
        redis uvloop pyyaml packaging numpy pydantic pydantic-core annotated-types typing-extensions typing-inspection
    VENV/bin/python bench/dynamo-replay.py [FOLDER WITH TRACES]

Not part of any test: it needs some hundred megabytes of packages.
"""

import gzip
import os
import sys
import tempfile

# Before the import: it logs every choice otherwise.
os.environ.setdefault("DYN_LOG", "error")

from dynamo.mocker.args import parse_args
from dynamo.mocker.config import build_mocker_engine_args
from dynamo.replay.api import run_trace_replay

CELLS = [
    (trace, workers, speed)
    for trace in ("conversation", "synthetic")
    for workers, speed in ((4, 1), (10, 1), (4, 4), (10, 8))
]
# Also what sim/engine/engine-profiles.ts says of dynamo-mocker.
ENGINE = ["--num-gpu-blocks", "5859", "--block-size", "512", "--max-num-seqs", "256", "--max-num-batched-tokens", "8192"]


def unpacked(folder: str, trace: str) -> str:
    """The trace as a plain file."""
    target = tempfile.NamedTemporaryFile(suffix=".jsonl", delete=False)
    with gzip.open(os.path.join(folder, f"mooncake-{trace}.jsonl.gz")) as source, target:
        target.write(source.read())
    return target.name


def main() -> None:
    default = os.environ.get("FAIRLEAD_TRACES", os.path.join(os.path.dirname(__file__), "../../shared/traces"))
    folder = sys.argv[1] if len(sys.argv) > 1 else default
    files = {trace: unpacked(folder, trace) for trace in ("conversation", "synthetic")}
    try:
        for trace, workers, speed in CELLS:
            for mode in ("round_robin", "kv_router"):
                report = run_trace_replay(
                    files[trace],
                    extra_engine_args=build_mocker_engine_args(parse_args(ENGINE)),
                    num_workers=workers,
                    router_mode=mode,
                    arrival_speedup_ratio=float(speed),
                    trace_block_size=512,
                )
                summary = report.summary
                reuse = summary.get("prefix_cache_reused_ratio", float("nan"))
                print(
                    f"{trace:12} {workers:2} workers {speed}x {mode:11} "
                    f"reuse {reuse:.3f} TTFT mean {summary['mean_ttft_ms']:.0f} p99 {summary['p99_ttft_ms']:.0f} ms",
                    flush=True,
                )
    finally:
        for file in files.values():
            os.unlink(file)


if __name__ == "__main__":
    main()
