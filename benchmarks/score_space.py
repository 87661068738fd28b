"""Low-rank group shrinkage in score space against its gathered form: time, memory, difference.

    python benchmarks/score_space.py [--windows 100] [--threads 2]

N = 196 tokens a window, k = 100 matches, d = 108 features, as the published network has them. Each form runs
in a process of its own; memory is the peak resident size above that before the first call.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

TOKENS, MATCHES, DIM = 196, 100, 108


def gathered(layer, tokens):
    """The definition, with every group formed: (windows, N, k + 1, d)."""
    import torch

    scores, order = layer.match(tokens)
    batch = torch.arange(len(tokens))[:, None, None]
    group = torch.cat((tokens[:, :, None], tokens[batch, order]), dim=2)
    group = group * layer.gate(group.mean(-1))[..., None]
    query, keys = layer.query(group[:, :, :1]), layer.key(group[:, :, 1:])
    logits = (query * keys).sum(-1) / keys.shape[-1] ** 0.5 + scores
    return layer.out((torch.softmax(logits, dim=-1)[..., None] * group[:, :, 1:]).sum(2))


def measure(form: str, windows: int, threads: int, results) -> None:
    import torch

    from deepgsr_cli.models.deepgsr import LowRankGroupShrinkage

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer = LowRankGroupShrinkage(DIM, MATCHES, DIM, 16, 16)
    tokens = torch.randn(windows, TOKENS, DIM)
    run = layer if form == "score space" else lambda x: gathered(layer, x)
    with torch.inference_mode():
        run(tokens[:1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        output = run(tokens)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        difference = float((gathered(layer, tokens[:2]) - output[:2]).abs().max())
    results.put((seconds, (after - before) / 1024, difference))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"{options.windows} windows, N = {TOKENS}, k = {MATCHES}, d = {DIM}, {options.threads} threads\n")
    print("form          seconds   peak MiB   largest difference to the gathered form")
    context = multiprocessing.get_context("spawn")
    rows = {}
    for form in ("score space", "gathered"):
        results = context.SimpleQueue()
        process = context.Process(target=measure, args=(form, options.windows, options.threads, results))
        process.start()
        rows[form] = results.get()
        process.join()
        seconds, peak, difference = rows[form]
        print(f"{form:<12} {seconds:8.3f}   {peak:8.0f}   {difference:.1e}")
    (fast, lean, _), (slow, fat, _) = rows.values()
    print(f"\nscore space is {slow / fast:.1f} times faster and takes {fat / lean:.1f} times less memory")


if __name__ == "__main__":
    main()
